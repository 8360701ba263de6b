import pytest
import torch

from convscope.core.threads import in_parallel, one_thread_each


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with one_thread_each() as threads:
        assert threads == before
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_results_keep_their_order_on_any_number_of_threads():
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert in_parallel(lambda x: x * x, range(20)) == [x * x for x in range(20)]
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_thread_arrives():
    with pytest.raises(ZeroDivisionError):
        in_parallel(lambda x: 1 / x, [1, 0])
