"""Processes that train, forked from one that has imported everything: a tenth of a second each.

As a program it is that process. It must have no threads, so it computes nothing itself.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from torch.distributed import TCPStore


class Forked:
    """Starts functions of children.py as processes on one thread, and says how they ended."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, function, output, environment=None, **arguments):
        """Its process id; what it prints goes to the file."""
        return self._ask([function, str(output), environment or {}, arguments])

    def wait(self, pid):
        """Its exit status; minus the number of the signal that killed it."""
        return self._ask(pid)

    def run(self, function, output, **arguments):
        """Its exit status, and what it printed."""
        status = self.wait(self.start(function, output, **arguments))
        return status, Path(output).read_text()

    def run_ranks(self, function, output, **arguments):
        """Two processes of one group: the exit status of each, and what it printed."""
        return self.wait_ranks(self.start_ranks(function, output, **arguments), output)

    def start_ranks(self, function, output, **arguments):
        # Listening from here on: a port that is only looked up may be another's when it is used.
        self.store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        common = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        return [
            self.start(
                function,
                Path(output) / f"output.{rank}",
                {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                **arguments,
            )
            for rank in range(2)
        ]

    def wait_ranks(self, pids, output):
        statuses = [self.wait(pid) for pid in pids]
        return statuses, [(Path(output) / f"output.{rank}").read_text() for rank in range(2)]

    def close(self):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def _ask(self, question):
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


def _serve():
    import children

    for line in sys.stdin:
        question = json.loads(line)
        if isinstance(question, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(question, 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _be(children, *question)
        print(answer, flush=True)


def _be(children, function, output, environment, arguments):
    """Never returns."""
    status = 1
    try:
        signal.alarm(100)  # rather killed than waited for
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
        os.setsid()
        os.environ.update(environment)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        getattr(children, function)(**arguments)
        status = 0
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
