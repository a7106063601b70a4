# semipose with everything that it needs on a machine with an NVIDIA GPU, or without one:
#   docker build -t semipose .
#   docker run --rm -it --gpus all --shm-size 8g --volume ./mine:/mine semipose train /mine/recipe.yaml
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends libglib2.0-0 && rm -rf /var/lib/apt/lists/*
WORKDIR /semipose
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .
WORKDIR /mine
ENTRYPOINT ["semipose"]
