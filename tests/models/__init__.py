"""Networks of other packages, converted: `make test-models` installs what they need and runs them."""
