"""Values and their pure rules: secrets, users, dates, headers, settings. Nothing here knows an endpoint."""
