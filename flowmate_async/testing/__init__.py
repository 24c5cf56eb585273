"""Help for testing code that uses or extends the library: public, and never imported by the library."""
