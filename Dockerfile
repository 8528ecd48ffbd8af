# gpt2c behind HTTP with four workers; see docs/deployment.md.
#
#     docker build -t gpt2c .                                   GPT-2 124M from the Hugging Face hub, as int8
#     docker build -t gpt2c --build-arg MODEL=/src/model .      a model that lies in ./model
#     docker run --rm -p 8000:8000 --memory 1g gpt2c
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip wheel --no-cache-dir --wheel-dir /wheels /src "gunicorn>=27"
ARG MODEL=gpt2
ARG DTYPE=int8
RUN pip install --no-cache-dir --no-index --find-links /wheels gpt2c \
    && gpt2c convert "$MODEL" /model.gpt2c --dtype "$DTYPE" --no-comparison \
    && gpt2c info /model.gpt2c --check

FROM python:${PYTHON}-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home gpt2c
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels gpt2c gunicorn
COPY --from=build /model.gpt2c /model.gpt2c
COPY docs/deployment/app.py /app/app.py
WORKDIR /app
USER gpt2c
# One thread for each worker: four workers keep four cores busy.
ENV GPT2C_MODEL=/model.gpt2c OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
CMD ["gunicorn", "--workers", "4", "--bind", "0.0.0.0:8000", "--timeout", "120", \
     "--worker-tmp-dir", "/dev/shm", "--no-control-socket", "app:app"]
