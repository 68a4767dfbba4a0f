# CPU:  docker build -t f5-tts-rl .
# CUDA: docker build -t f5-tts-rl --build-arg TORCH_INDEX= .
# Run:  docker run --rm --gpus all -v "$PWD/data:/f5-tts-rl/data" -v "$PWD/ckpts:/f5-tts-rl/ckpts" f5-tts-rl train --help
# Without a GPU leave out --gpus all. Other extras: --build-arg EXTRAS=mini,eval
FROM python:3.11-slim
WORKDIR /f5-tts-rl

# Where setup_env.py gets torch from: this index has CPU builds; empty: the registry, whose torch has CUDA on Linux.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=mini,eval,rl
ENV PIP_NO_CACHE_DIR=1 PATH=/f5-tts-rl/.venv/bin:$PATH

COPY setup_env.py pyproject.toml constraints.txt requirements-assets.txt README.md LICENSE ./
COPY src src
COPY recipes recipes
COPY pretrained pretrained
COPY data data
RUN python setup_env.py --extras "$EXTRAS"
RUN f5-tts env

ENTRYPOINT ["f5-tts"]
CMD ["--help"]
