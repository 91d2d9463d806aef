"""IDFormer and `pulid_ca` of the small world, learnt while Flux, the tower and the recogniser stay
as they are, as PuLID does.

A portrait's features go through IDFormer, its tokens through PuLID's layers behind the blocks that
`hook_points` names. The loss is Flux's own; in the end also the ID loss: what is drawn in four
steps must look like the one who was asked for, in the scene that was asked for. Now and then there
is nobody: then the features are zeros, which is what true CFG asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from micro_world.dataset import is_current
from micro_world.networks import autoencoder, critic, tower
from micro_world.networks.autoencoder import CELLS
from micro_world.networks.painter import (
    DOUBLE,
    SINGLE,
    WIDTH,
    Asked,
    Jury,
    Painter,
    PictureLoss,
    latents,
)
from micro_world.networks.reader import Words, truths
from micro_world.networks.recognisers import contrast
from micro_world.training.loop import Plan, at_once, half, place, some_of, train
from pulid_extract.networks.idformer import IDFormer
from pulid_generate.files.layouts import DOUBLE_INTERVAL, SINGLE_INTERVAL
from pulid_generate.injection.attention import PerceiverAttentionCA
from pulid_generate.injection.hooks import hook_points

TOKEN_WIDTH, HEADS = 512, 2
INNER, ARCFACE = 128, 512
FACES_AT_ONCE = 50  # people whose portraits the two networks look at together
PEOPLE_AT_ONCE, EACH = 16, 3  # people in a batch, pictures of each
BOTH = 4  # every so many steps both portraits of everybody go in together
NOBODY, SILENT = 0.08, 0.08
# mean of the logit of the time: from half the noise on downwards the picture itself says who it is
NOISY = 1.3
# times the usual start of queries: places choose different tokens from the first step on
CHOOSY = 3.0
DESCRIBED_AT_ONCE, DESCRIBING = 48, Plan(2000, rate=1.5e-3, warmup=60, decay=0.01, on_cpu=1000)
LAYERS = Plan(3000, rate=2e-3, warmup=60, decay=0.01, on_cpu=1500)
PLAN = Plan(5400, rate=7e-4, warmup=60, decay=0.01, on_cpu=1000)
ALIKE, OBEYED = 0.1, 0.05  # weights of what the critic says: of the person, of the scene


class Sketch(nn.Module):
    """A person's average picture from the identity tokens alone, through a layer like PuLID's: it
    gives the tokens something to say at each place of a picture, and the layers a start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(CELLS * CELLS, WIDTH))
        self.attention = PerceiverAttentionCA(WIDTH, TOKEN_WIDTH, HEADS)
        self.mean = nn.Parameter(torch.zeros(CELLS * CELLS, 64))
        self.paint = nn.Linear(WIDTH, 64)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 32, 512) -> (B, 36, 64)."""
        return self.mean + self.paint(
            self.attention(tokens, self.places.expand(len(tokens), -1, -1))
        )


class Wanted(NamedTuple):
    """Indexes of people (B,), whether there is somebody at all (B,), tokens (B, 32, 512)."""

    people: Tensor
    somebody: Tensor
    tokens: Tensor


class Identity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = IDFormer(
            dim=INNER,
            inner=INNER,
            ff_dim=4 * INNER,
            output_dim=TOKEN_WIDTH,
            cond_dim=ARCFACE + tower.POOLED,
            vit_dims=(tower.WIDTH,) * 5,
            mapping_dim=INNER,
        )
        count = len(range(0, DOUBLE, DOUBLE_INTERVAL)) + len(range(0, SINGLE, SINGLE_INTERVAL))
        self.layers = nn.ModuleList(
            PerceiverAttentionCA(WIDTH, TOKEN_WIDTH, HEADS) for _ in range(count)
        )

    @torch.no_grad()
    def start_layers(self, sketch: Sketch) -> None:
        """Keys and values as the sketch has learnt them, queries that choose, and no output: to
        begin with, Flux draws as it did.
        """
        for layer in self.layers:
            layer.norm1.load_state_dict(sketch.attention.norm1.state_dict())
            layer.to_kv.load_state_dict(sketch.attention.to_kv.state_dict())
            layer.to_q.weight.mul_(CHOOSY)
            nn.init.zeros_(layer.to_out.weight)

    def attach(self, flux: Any, current: dict[str, Tensor]) -> None:
        """Hooks that add what the layers make of current["tokens"], to image tokens only."""
        for block, layer in zip(hook_points(flux), self.layers, strict=True):

            def hook(
                module: nn.Module,
                inputs: Any,
                output: tuple[Tensor, Tensor],
                layer: nn.Module = layer,
            ) -> tuple[Tensor, Tensor]:
                return output[0], output[1] + layer(current["tokens"], output[1])

            block.register_forward_hook(hook)


def features(folder: Path, glint: nn.Module, eva: Any) -> tuple[Tensor, Tensor]:
    """Of every portrait: condition (P, 2, 512 + pooled) float32, hidden states (P, 2, 5, 65, 128)
    float16.
    """
    kept = folder / "features.pt"
    crops, views, _ = tower.portraits(folder)
    if not is_current(kept, "references"):
        from pulid_extract.networks.eva_clip import encode_face

        conditions, hidden = [], []
        for network in (glint, eva):
            network.to(place())
        with torch.no_grad(), half():
            for start in range(0, len(crops), FACES_AT_ONCE):
                crop = np.ascontiguousarray(crops[start : start + FACES_AT_ONCE]).reshape(
                    -1, *crops.shape[2:]
                )
                view = np.ascontiguousarray(views[start : start + FACES_AT_ONCE]).reshape(
                    -1, *views.shape[2:]
                )
                vector = glint(
                    (torch.from_numpy(crop).permute(0, 3, 1, 2).float() / 127.5 - 1).to(place())
                ).float()
                pooled, taps = encode_face(eva, tower.pixels_of(view).to(place()))
                conditions.append(
                    torch.cat([vector, nn.functional.normalize(pooled.float(), dim=1)], 1).cpu()
                )
                hidden.append(torch.stack(list(taps), 1).half().cpu())
        shape = crops.shape[:2]
        torch.save(
            (torch.cat(conditions).unflatten(0, shape), torch.cat(hidden).unflatten(0, shape)), kept
        )
    conditions, hidden = torch.load(kept, weights_only=True, mmap=True)
    return conditions.to(place()), hidden.to(place())


def seen(
    conditions: Tensor,
    hidden: Tensor,
    people: Tensor,
    portrait: Tensor | int | None,
    somebody: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """What IDFormer takes for some people (B,): condition (B, I, C), five hidden states (B, I * L,
    W).

    portrait: which one of each; None: all of them together, I = 2, as `pulid-extract` fuses
    portraits. somebody: (B,) 0 or 1.
    """
    if portrait is None:
        condition, states = conditions[people], hidden[people].float().transpose(1, 2).flatten(2, 3)
    else:
        condition, states = conditions[people, portrait][:, None], hidden[people, portrait].float()
    if somebody is not None:
        condition, states = (
            condition * somebody[:, None, None],
            states * somebody[:, None, None, None],
        )
    return condition, list(states.unbind(1))


def _describing(
    identity: Identity,
    conditions: Tensor,
    hidden: Tensor,
    attributes: Tensor,
    clean: Tensor,
    folder: Path,
) -> Sketch:
    """Let IDFormer learn to tell people apart, and what they look like, before PuLID's layers are
    there to be taught.

    Without it tokens of different people differ by a fortieth of their length, and the layers,
    which normalise them, see one and the same.
    """
    attributes = (attributes - attributes.mean(0)) / attributes.std(
        0
    )  # or rare kinds, such as one colour of hair, would hardly count
    sketch = Sketch()
    model = nn.ModuleDict(
        {
            "encoder": identity.encoder,
            "head": nn.Linear(TOKEN_WIDTH, attributes.shape[1]),
            "sketch": sketch,
        }
    )
    average = clean.unflatten(0, (len(conditions), autoencoder.EACH))

    def loss(step: int, generator: torch.Generator) -> Tensor:
        people = some_of(len(conditions), at_once(DESCRIBED_AT_ONCE), 1, generator)[0]
        portraits: list[int | None] = [0, None if step % BOTH == 0 else 1]
        with half():
            views = [identity.encoder(*seen(conditions, hidden, people, one)) for one in portraits]
            tokens = torch.cat(views)
            drawn = sketch(tokens).float()
        off = drawn - average[people].float().mean(1).repeat(len(views), 1, 1)
        # as norm1 of PuLID's layers sees them
        tokens = nn.functional.layer_norm(tokens.float(), tokens.shape[-1:])
        told = nn.functional.mse_loss(
            model["head"](tokens.mean(1)), attributes[people].repeat(len(views), 1)
        )
        return told + off.square().mean() + 0.5 * contrast(*tokens.flatten(1).chunk(len(views)))

    train("idformer", model, loss, DESCRIBING, folder, BOTH)
    return sketch


def trained(folder: Path, painter: Painter, glint: nn.Module, eva: Any) -> Identity:
    torch.manual_seed(51)
    identity, current = Identity(), dict[str, Tensor]()
    words = Words(folder, autoencoder.pictures(folder)[1])
    clean = latents(folder)
    conditions, hidden = features(folder, glint, eva)
    attributes = torch.from_numpy(np.array(tower.portraits(folder)[2])).to(place())
    identity.start_layers(_describing(identity, conditions, hidden, attributes, clean, folder))
    identity.to(place())
    painter.requires_grad_(False).to(place())
    identity.attach(painter.flux, current)
    picture_loss = PictureLoss(painter, words, clean, NOISY)

    def flow(step: int, generator: torch.Generator) -> tuple[Tensor, Wanted, Asked]:
        """Flux's loss, who was wanted, and what was asked for in the first picture of each."""
        count = at_once(PEOPLE_AT_ONCE)
        people = torch.randint(len(conditions), (count,), generator=generator, device=place())
        portrait = torch.randint(tower.REFERENCES, (count,), generator=generator, device=place())
        somebody = (torch.rand(count, generator=generator, device=place()) >= NOBODY).float()
        pictures = some_of(autoencoder.EACH, EACH, count, generator)
        chosen = (people[:, None] * autoencoder.EACH + pictures).reshape(-1)
        silent = torch.rand(len(chosen), generator=generator, device=place()) < SILENT
        tokens = identity.encoder(
            *seen(conditions, hidden, people, None if step % BOTH == 0 else portrait, somebody)
        )
        current["tokens"] = tokens.repeat_interleave(EACH, 0)
        off, asked = picture_loss(chosen, silent, generator)
        return off, Wanted(people, somebody, tokens), asked.some(slice(None, None, EACH))

    def loss(step: int, generator: torch.Generator) -> Tensor:
        with half():
            return flow(step, generator)[0]

    # layers that are still blank would teach it to say nothing at all
    identity.encoder.requires_grad_(False)
    train("layers", identity, loss, LAYERS, folder, BOTH)
    identity.encoder.requires_grad_(True)
    jury = Jury(painter, critic.trained(folder, clean), truths(folder))
    everybody = [critic.everybody(one, clean) for one in jury.critics]

    def judged(step: int, generator: torch.Generator) -> Tensor:
        with half():
            off, wanted, asked = flow(step, generator)
            current["tokens"] = wanted.tokens
            seen = jury.look(asked, generator)
        unlike = critic.unlike(seen, wanted.people, everybody) * wanted.somebody
        return off + ALIKE * unlike.mean() + OBEYED * jury.disobeyed(seen, asked)

    train("identity", identity, judged, PLAN, folder, BOTH)
    painter.to("cpu")
    return identity
