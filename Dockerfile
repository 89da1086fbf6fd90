# Two images of the worker, which is the command `streamer` too:
#
#   docker build --target cpu  -t stream-taggen:cpu .     torch's small CPU build
#   docker build --target cuda -t stream-taggen:cuda .    torch with CUDA's libraries; the host needs the driver alone
#
# Versions are those of requirements.txt. They run without root, on a read-only root file system with a writable /tmp.

FROM python:3.11.13-slim-bookworm AS build
RUN pip install --no-cache-dir --root-user-action=ignore uv==0.13.9 \
    && uv venv --no-cache --python /usr/local/bin/python3.11 /opt/venv
ENV VIRTUAL_ENV=/opt/venv
WORKDIR /src
COPY pyproject.toml requirements.txt ./

# Dependencies are a layer of their own: a change of our code does not fetch torch again. The lock is a constraint here,
# since it holds the tools of development too. The base model is unpacked once, now, and not at each start; its folder is
# root's alone until the image's user may read it.

FROM build AS build-cpu
ENV UV_TORCH_BACKEND=cpu
RUN uv pip install --no-cache --compile-bytecode --constraint requirements.txt \
    --requirement pyproject.toml --extra s3 --extra tracing
COPY . .
RUN uv pip install --no-cache --compile-bytecode --no-deps . \
    && XDG_CACHE_HOME=/opt/cache /opt/venv/bin/python -P -c "from taggen import embedded; embedded.checkpoint()" \
    && chmod -R a+rX /opt/cache

FROM build AS build-cuda
RUN uv pip install --no-cache --compile-bytecode --constraint requirements.txt \
    --requirement pyproject.toml --extra s3 --extra tracing
COPY . .
RUN uv pip install --no-cache --compile-bytecode --no-deps . \
    && XDG_CACHE_HOME=/opt/cache /opt/venv/bin/python -P -c "from taggen import embedded; embedded.checkpoint()" \
    && chmod -R a+rX /opt/cache

FROM python:3.11.13-slim-bookworm AS runtime
# torch asks for the name and the home of its user; the folder is for an adapter store in a volume, which takes its owner
RUN useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin streamer \
    && install --directory --owner 10001 --group 10001 /var/lib/streamer/adapters
# The worker's web server binds to localhost unless told otherwise, and nobody could scrape that.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/opt/cache \
    HF_HOME=/tmp/huggingface \
    STREAMER_WEB_HOST=0.0.0.0 \
    STREAMER_WEB_PORT=8080
WORKDIR /tmp
USER 10001:10001
EXPOSE 8080
# Loading the model takes most of the start. A worker that does not answer here is to be restarted.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['STREAMER_WEB_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["streamer"]
CMD ["worker"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/venv /opt/venv
COPY --from=build-cuda /opt/cache /opt/cache

FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
COPY --from=build-cpu /opt/cache /opt/cache
