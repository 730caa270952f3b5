# versitygw's server; compose.versitygw.yaml states the command.
FROM python:3.11-slim-bookworm
RUN install --directory --owner 65532 /data
COPY --chmod=755 versitygw /usr/local/bin/
USER 65532:65532
