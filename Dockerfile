# The ledger: no Flower, no PyTorch, no shell needed; whoever runs it reads one folder, /ledger.
FROM python:3.11-slim-bookworm AS build
COPY pyproject.toml README.md /source/
COPY shared_models /source/shared_models
COPY client /source/client
COPY server /source/server
COPY ledger /source/ledger
COPY consortium /source/consortium
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir '/source[ledger,postgres,s3]' && /venv/bin/pip uninstall -y pip

FROM python:3.11-slim-bookworm AS ledger
COPY --from=build /venv /venv
USER 10001:10001
EXPOSE 8443
ENTRYPOINT ["/venv/bin/consortium"]
CMD ["serve", "--dir", "/ledger", "--host", "0.0.0.0"]
