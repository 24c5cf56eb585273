"""What the library needs of the operating system and the event loop: private files, keyring, threads."""
