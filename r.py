import sys, shlex
from scssl.cli import main


def run(line):
    print("$ scssl", line)
    try:
        print("  ->", main(shlex.split(line)))
    except SystemExit as e:
        print("  -> exit", e.code)
    except BaseException as e:
        print("  !!", type(e).__name__, e)
    sys.stdout.flush()
    sys.stderr.flush()


for line in open(sys.argv[1]):
    run(line.strip())
