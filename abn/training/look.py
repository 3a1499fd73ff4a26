"""How `attention: look` learns to decide on what a map shows: the forward pass of its steps."""

from torch import Tensor, nn

from abn.models.abn import AttentionBranchNetwork, Output
from abn.training.distributed import World


class LookingNetwork(nn.Module):
    """`model` as a training step runs it, on this rank's shard of a batch of `batch` images.

    Each picture is seen under the map of the one before it in the batch, as the network will see it
    under its own: what the map hides may matter, so that the network learns to decide on whatever
    is shown. A network that learns under its own maps can come to write the class into their
    outline, where the decision then reads it (Jethani et al., AISTATS 2021, the reason for REAL-X).
    So no gradient reaches a map, and the losses of the two branches are all there is.
    """

    def __init__(self, model: AttentionBranchNetwork, world: World, batch: int) -> None:
        super().__init__()
        self.model, self.world, self.batch = model, world, batch
        self.looking = False  # whether it decides on the second look already, or on the first

    def forward(self, images: Tensor) -> Output:
        """The outputs for this rank's `images` [B, 3, H, W] in [0, 1]."""
        model = self.model
        seen = model.features(images)
        class_maps, attention = model.attention_branch(seen)
        if self.looking:
            others = self.world.previous(attention.detach(), self.batch)
            seen = model.attend(images, seen, others)
        else:
            model.copy_statistics()
        return Output(model.perception_branch(seen), class_maps.mean((2, 3)), attention)
