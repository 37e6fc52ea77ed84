"""`python -m byola_rq` is the command `byola-rq`."""

from byola_rq.cli.app import main

if __name__ == "__main__":
    main()
