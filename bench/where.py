"""Where the time of a step goes, by PyTorch's own profiler."""

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

STEPS = 5
REST = "rest"
GROUPS = {
    "matrix products": ("addmm", "mm"),
    "attention": ("bmm", "_scaled_dot_product_flash_attention_for_cpu", "masked_fill", "masked_fill_"),
    "rings": ("index_select", "index_copy_", "index_copy"),
    # the fast step's depthwise convolutions are sums and addcmul
    "convolutions": ("mkldnn_convolution", "_slow_conv2d_forward", "sum", "addcmul_"),
    "norms": ("native_layer_norm",),
}
NAMES = (*GROUPS, REST)
_GROUP = {f"aten::{name}": group for group, names in GROUPS.items() for name in names}
_GROUP |= {"trunkline::product": "matrix products", "trunkline::attend": "attention"}


def shares(step: Callable[[], object]) -> dict[str, float]:
    """Each group's share of the time of some steps, without the time of the operations that an operation calls."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(STEPS):
            step()
    spent = dict.fromkeys(NAMES, 0.0)
    for event in found.key_averages():
        spent[_GROUP.get(event.key, REST)] += event.self_cpu_time_total
    total = sum(spent.values())
    return {name: value / total for name, value in spent.items()}


def show(cells: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """cells: shares by the cell's name."""
    table = Table("cell", *NAMES, title="where the fast step's time goes, %")
    for cell, found in cells.items():
        table.add_row(cell, *(f"{100 * found[name]:.0f}" for name in NAMES))
    console.print(table)
