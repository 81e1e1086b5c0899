"""What an application relies on, one module a subject."""
