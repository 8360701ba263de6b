"""``python -m convscope``; also what ``torchrun -m convscope`` starts."""

from convscope.cli import main

if __name__ == "__main__":
    main()
