"""``python -m graphsurgery``."""

from graphsurgery.cli import main

if __name__ == "__main__":
    main()
