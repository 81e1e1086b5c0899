"""What the suites share: the server under test, tokens, clients, results."""
