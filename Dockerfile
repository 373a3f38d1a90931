# The paper from a bare machine, results on the synthetic twins included:
#   docker build -t medfolio . && docker run --rm -p 8000:8000 medfolio
# then read it at http://localhost:8000; `docker run --rm medfolio make test` tests it.
FROM python:3.11.13-slim-bookworm

# Debian keeps one version of a package for a release, so these are not pinned here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends chromium git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home reader \
    && install --directory --owner=reader /home/reader/medfolio

USER reader
WORKDIR /home/reader/medfolio
COPY --chown=reader:reader . .
RUN make paper

EXPOSE 8000
CMD ["python3", "-m", "http.server", "8000", "--directory", "_site"]
