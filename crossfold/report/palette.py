"""Colours and limits of the figures, for the page too, which is rendered without matplotlib."""

# The first four are from Okabe and Ito's colour-blind-safe palette ("Color universal design",
# 2008). All have a contrast of 3:1 or better on a white and on a dark page. Nobody can rely on ten
# colours alone, so each has a marker too.
BLUE, VERMILION, GREEN, PURPLE = "#1f83c6", "#d55e00", "#009e73", "#c46a9b"
PALETTE = (
    *(BLUE, VERMILION, GREEN, PURPLE),
    *("#8f7500", "#7b61d1", "#d6336c", "#0f8b8d", "#8d6e63", "#6b7785"),
)
MARKERS = "osD^vPX*<>"
LINE_STYLES = ("-", "--")
INK = "#000000"

MAX_CLASSES_IN_LEGEND = len(PALETTE) * len(LINE_STYLES)
NUM_WORST_CLASSES = 5
MAX_CANDIDATES_DRAWN = 12
