import os
import signal
import time

import pytest

from byola_rq.runtime.signals import StoppedError, stop_on_signals, terminate_at_end_of_input


@pytest.mark.parametrize("is_saving", [True, False])
def test_a_process_ends_with_the_one_that_holds_its_input(is_saving: bool) -> None:
    reader, writer = os.pipe()
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.dup2(reader, 0)
        terminate_at_end_of_input()
        try:
            if is_saving:
                with stop_on_signals():
                    os.write(told, b".")
                    time.sleep(60)
            os.write(told, b".")
            time.sleep(60)
        except StoppedError as error:
            os._exit(error.exit_code)
        os._exit(1)
    os.read(ready, 1)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.write(writer, b"more input")
    os.close(writer)  # as the kernel does for a process that SIGKILL ends
    _, status = os.waitpid(child, 0)
    expected = 128 + signal.SIGTERM if is_saving else -signal.SIGTERM
    assert os.waitstatus_to_exitcode(status) == expected
