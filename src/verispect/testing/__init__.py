"""Public fakes and fixtures for tests of software that uses Verispect."""
