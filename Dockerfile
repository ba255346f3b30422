# The broker and its command line:   docker build -t zmqmq .
# Where pip needs another index than PyPI: --build-arg PIP_INDEX_URL=…; it does not get into the image.

FROM python:3.11-slim-bookworm AS build
ARG PIP_INDEX_URL
WORKDIR /src
RUN python -m venv --without-pip /opt/zmqmq
# First what changes seldom: the dependencies, in the versions of compose/constraints.txt.
COPY pyproject.toml compose/constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
      extra = p['optional-dependencies']; print(*p['dependencies'], *extra['etcd3'], *extra['fast'], sep='\n')" \
      >dependencies.txt && \
    python -m pip --python /opt/zmqmq/bin/python install --no-cache-dir --only-binary :all: -r dependencies.txt -c constraints.txt
COPY . .
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir dist . && \
    python -m pip --python /opt/zmqmq/bin/python install --no-cache-dir --no-index --no-deps dist/*.whl

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin zmqmq && \
    install -d -o zmqmq -g zmqmq -m 0750 /data
COPY --from=build /opt/zmqmq /opt/zmqmq
ENV PATH=/opt/zmqmq/bin:$PATH \
    ZMQMQ_BROKER__BROKER__DATA_DIR=/data \
    ZMQMQ_BROKER__BROKER__BIND=0.0.0.0:5755 \
    ZMQMQ_BROKER__BROKER__BIND_PEERS=0.0.0.0:5757
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 5755 5756 5757
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["zmqmq", "ping", "--quiet", "--timeout", "4s"]
ENTRYPOINT ["zmqmq"]
CMD ["broker"]
