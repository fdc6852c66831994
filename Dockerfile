# A server of videos with the embedded model inside: docs/install.md, "A container".
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS built
# For a GPU: TORCH_INDEX=https://pypi.org/simple CONSTRAINTS=constraints-gpu.txt EXTRAS=serve,train,gpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG CONSTRAINTS=constraints.txt
ARG EXTRAS=serve,train
WORKDIR /src
COPY constraints.txt constraints-gpu.txt ./
RUN cp "$CONSTRAINTS" pins.txt && grep -v -e '^torch==' constraints.txt >> pins.txt
RUN python -m venv /opt/t2v \
    && /opt/t2v/bin/pip install --no-cache-dir --constraint pins.txt --index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY assets/t2v-tiny assets/t2v-tiny
COPY assets/world-scorer assets/world-scorer
COPY t2v t2v
RUN /opt/t2v/bin/pip install --no-cache-dir --constraint pins.txt ".[$EXTRAS]"

FROM ${BASE}
LABEL org.opencontainers.image.title="t2v" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home --home-dir /var/lib/t2v t2v
COPY --from=built /opt/t2v /opt/t2v
ENV PATH=/opt/t2v/bin:$PATH
USER 10001
# The queue with its videos, and what was downloaded and measured (.cache).
WORKDIR /var/lib/t2v
VOLUME /var/lib/t2v
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["t2v"]
# Needs a token: T2V_TOKEN in the environment, or token_file=.
CMD ["serve", "queue", "host=0.0.0.0"]
