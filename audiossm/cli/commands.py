"""Every command, imported so that it registers itself. A command imports what is heavy inside its function."""

