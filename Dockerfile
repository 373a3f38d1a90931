# The paper from a bare machine:
#   docker build -t medfolio . && docker run --rm -p 8000:8000 medfolio
# builds the environment and every result on the synthetic twins, then serves the site.
FROM python:3.11.13-slim-bookworm

# git names the commit in records; chromium is for `docker run medfolio make test`.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends chromium git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home reader

WORKDIR /home/reader/medfolio
RUN chown reader:reader /home/reader/medfolio
USER reader

# The environment first: it changes less often than the code.
COPY --chown=reader:reader . .
RUN make setup && make paper

EXPOSE 8000
CMD ["python3", "-m", "http.server", "8000", "--directory", "_site"]
