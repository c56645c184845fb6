"""``python -m graffiti.cli``."""

from graffiti.cli import main

if __name__ == "__main__":
    main()
