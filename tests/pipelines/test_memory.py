"""Memory is used again once nobody holds it, never before."""

import torch

from semipose.pipelines.recycled_memory import RecycledMemory


def test_memory_comes_back_when_nobody_holds_it() -> None:
    memory = RecycledMemory()

    def address() -> int:
        return memory.take((4, 5)).__array_interface__["data"][0]

    held = torch.from_numpy(memory.take((4, 5)))
    first = held.data_ptr()
    held.fill_(7)
    weight = torch.ones(4, 5, requires_grad=True)
    product = (held.permute(1, 0).t() * weight).sum()  # autograd holds a view of it
    del held
    assert address() != first
    product.backward()
    assert (weight.grad == 7).all()
    del product
    assert address() == first
    assert memory.take((5, 4)).shape == (5, 4)
