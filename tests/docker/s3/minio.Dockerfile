# MinIO's server, started as its own image is.
FROM python:3.11-slim-bookworm
RUN install --directory --owner 65532 /data
COPY --chmod=755 minio /usr/local/bin/
ENV HOME=/tmp
USER 65532:65532
ENTRYPOINT ["minio"]
