"""One module a command; `infra.cli` puts them together."""
