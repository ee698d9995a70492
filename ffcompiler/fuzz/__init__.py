"""Random sequential programs, as Python source: each is compiled and compared with what it gives when it just runs."""
