import multiprocessing

import pytest


class Processes:
    """Fresh processes at little cost: each is forked from a server that only imported the package."""

    def __init__(self):
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tfode_adv.training", "tfode_adv.cli.train"])

    def start(self, function, *arguments):
        process = self._context.Process(target=function, args=arguments, daemon=True)
        process.start()
        return process

    @staticmethod
    def finish(processes, seconds=120):
        for process in processes:
            process.join(seconds)
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
        assert codes == [0] * len(codes)


@pytest.fixture(scope="session")
def processes():
    return Processes()
