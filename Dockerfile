# gpt2c serve; docs/serving.md says how it is run, and that clients need a key.
#
#     docker build -t gpt2c .                                   GPT-2 124M from the Hugging Face hub, as int8
#     docker build -t gpt2c --build-arg MODEL=/src/model .      a model that lies in ./model
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip wheel --no-cache-dir --wheel-dir /wheels "/src[server]"
ARG MODEL=gpt2
ARG DTYPE=int8
RUN pip install --no-cache-dir --no-index --find-links /wheels gpt2c \
    && gpt2c convert "$MODEL" /model.gpt2c --dtype "$DTYPE" --no-comparison \
    && gpt2c info /model.gpt2c --check

FROM python:${PYTHON}-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "gpt2c[server]"
COPY --from=build /model.gpt2c /model.gpt2c
# Nobody in particular: no name, no home, nothing to write to.
USER 10001
EXPOSE 8000
# Straight to the server, whatever proxy the environment names.
HEALTHCHECK --start-period=30s --timeout=5s CMD ["python", "-c", "from urllib import request; \
    request.build_opener(request.ProxyHandler({})).open('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["gpt2c", "serve", "-m", "/model.gpt2c", "--host", "0.0.0.0", \
            "--api-key-file", "/run/secrets/gpt2c.key"]
