"""What changes from epoch to epoch: whether gates are shut, their temperature, the weight of the KL term."""


def epochs_without_edges(structure_epochs: int) -> int:
    """Epochs at the start of a structure phase in which all gates are shut: half of them.

    Each node then has to say what it says of the image by itself. If edges are there from the start, some nodes say
    what belongs to others, which become functions of their parents.
    """
    return structure_epochs // 2


def temperature(epoch: int, structure_epochs: int, final_temperature: float) -> float:
    """tau of the relaxed gates in `epoch` (from 0): once they are open, from 1 geometrically to final_temperature."""
    first, last = epochs_without_edges(structure_epochs), structure_epochs - 1
    return final_temperature ** min(1.0, max(0, epoch - first) / max(1, last - first))


def kl_weight(epoch: int, kl_warmup_epochs: int) -> float:
    """Weight of the KL term in `epoch` (from 0): rises linearly, and is 1 from epoch `kl_warmup_epochs` on."""
    return min(1.0, (epoch + 1) / (kl_warmup_epochs + 1))
