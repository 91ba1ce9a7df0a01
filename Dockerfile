# Two images from one source, both of user 10001, for a read-only root: what is kept lies in folders that are mounted.
#   ledger     the ledger; no Flower, no PyTorch
#   training   coordinator and members: every command, and whatever a recipe asks of a member
# TORCH_ARGS=--index-url=URL names an index of CPU builds of torch; the default wheel brings CUDA along, gigabytes of it.
FROM python:3.11-slim-bookworm AS source
WORKDIR /source
COPY pyproject.toml constraints.txt README.md ./
COPY shared_models shared_models
COPY client client
COPY server server
COPY ledger ledger
COPY consortium consortium
RUN python -m venv /venv

FROM source AS ledger-build
RUN /venv/bin/pip install --no-cache-dir '/source[ledger,postgres,s3]' && /venv/bin/pip uninstall -y pip

# Before our code, so that a change of it does not bring them again.
FROM python:3.11-slim-bookworm AS training-build
ARG TORCH_ARGS=
ENV EXTRAS=ledger,train,postgres,fast,hf,text,optim,gpu
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir 'torch==2.13.*' $TORCH_ARGS
COPY --from=source /source/pyproject.toml /source/constraints.txt /source/
RUN /venv/bin/python -c 'import os, tomllib; extras = tomllib.load(open("/source/pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
    print("\n".join(each for name in os.environ["EXTRAS"].split(",") for each in extras[name] if "consortium" not in each))' \
    > /wanted && /venv/bin/pip install --no-cache-dir --constraint /source/constraints.txt --requirement /wanted
COPY --from=source /source /source
RUN /venv/bin/pip install --no-cache-dir --constraint /source/constraints.txt "/source[$EXTRAS]" \
    && /venv/bin/pip uninstall -y pip

FROM python:3.11-slim-bookworm AS ledger
COPY --from=ledger-build /venv /venv
# A new volume is owned as the folder of the image that it lies over.
RUN install -d -o 10001 -g 10001 /ledger
USER 10001:10001
EXPOSE 8443
ENTRYPOINT ["/venv/bin/consortium"]
CMD ["serve", "--dir", "/ledger", "--host", "0.0.0.0"]

FROM python:3.11-slim-bookworm AS training
COPY --from=training-build /venv /venv
RUN install -d -o 10001 -g 10001 /member /coordinator /parties \
    /parties/ledger /parties/admin /parties/coordinator /parties/acme /parties/birch /parties/cedar
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin
USER 10001:10001
EXPOSE 9443
ENTRYPOINT ["/venv/bin/consortium"]
