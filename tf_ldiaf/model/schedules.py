"""What changes from epoch to epoch: the gates' temperature, the weight of the KL term."""


def temperature(epoch: int, structure_epochs: int, final_temperature: float) -> float:
    """tau of the relaxed gates in `epoch` (from 0): from 1 geometrically to final_temperature in the phase's last."""
    return final_temperature ** min(1.0, epoch / max(1, structure_epochs - 1))


def kl_weight(epoch: int, kl_warmup_epochs: int) -> float:
    """Weight of the KL term in `epoch` (from 0): rises linearly, and is 1 from epoch `kl_warmup_epochs` on."""
    return min(1.0, (epoch + 1) / (kl_warmup_epochs + 1))
