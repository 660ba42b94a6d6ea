"""``python -m mixnoise`` is the command ``mixnoise``."""

from mixnoise.cli import main

if __name__ == "__main__":
    main()
