"""`python -m biasscope`: the same as the `biasscope` command."""

from biasscope.cli import main

if __name__ == "__main__":
    main()
