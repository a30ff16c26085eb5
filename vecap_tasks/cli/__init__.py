"""The subcommands of `vecap`, one module per group."""
