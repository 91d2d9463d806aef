"""Latents of jobs, with one loaded Flux: where text, identities, guidance, starting pictures and
the sampler meet.

Several jobs of one `batch_key` go through the model together; a job alone takes the same path.
Knows no file and no flag, and neither loads nor frees the model.

Shapes: B jobs, L image tokens, T text tokens.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pulid_extract.shared.embedding_file import Embedding
from pulid_generate.caching.blocks import BlockCache
from pulid_generate.caching.easycache import EasyCache
from pulid_generate.caching.evaluation import Cache, Evaluation
from pulid_generate.control.residuals import Control, attach_controls
from pulid_generate.injection.adapter import PulidAdapter
from pulid_generate.injection.hooks import attach
from pulid_generate.injection.layer_skip import skip_layers
from pulid_generate.injection.terms import Injection, Term
from pulid_generate.kernels.recording import MOST_RECORDINGS, Recordings
from pulid_generate.pipeline.planning import IDENTITIES_KEPT
from pulid_generate.pipeline.texts import Texts, TextStates
from pulid_generate.request.job import Job, Subject
from pulid_generate.request.step_cache import StepCache
from pulid_generate.sampling.denoise import Predict, denoise
from pulid_generate.sampling.guidance import Branch, Guidance, Inpaint, late_mask, latent_mask
from pulid_generate.sampling.noise import NoiseStream, add_noise
from pulid_generate.sampling.packing import pack, position_ids, unpack

# Of a picture's steps: with an identity and, outside its window, without. A schedule of more
# weights has to use them so often that at least so large a share of its steps finds a recording,
# which the third step of a weight is the first to do.
USUAL_WEIGHTS, LEAST_REPLAYED = 2, 0.5
# Regions of people that stay for the next picture: a recording reads their tensors
REGIONS_KEPT = 16


class Denoiser:
    """Denoises with one Flux model, and keeps the identities that were folded last."""

    def __init__(
        self,
        flux: Any,
        adapter: PulidAdapter | None,
        device: torch.device,
        dtype: torch.dtype,
        dev: bool,
        kept: int = IDENTITIES_KEPT,
        recordings: Recordings | None = None,
        records: Callable[[int], bool] = lambda tokens: True,
    ):
        """flux: a diffusers FluxTransformer2DModel. adapter: PuLID's layers, None if no job has a
        subject. dev: whether Flux has a guidance input. kept: folded identities, both branches
        counted, that stay for the next job. recordings: of Flux's forwards, None where they cannot
        be recorded. records: whether those of so many image tokens are worth it.
        """
        self.flux, self.adapter = flux, adapter
        self.device, self.dtype, self.dev = device, dtype, dev
        self.kept = kept
        self.recordings, self._records = recordings, records
        # SHA-256 of an identity, whether it is the unconditional one -> its layers
        self._bound: OrderedDict[tuple[str, bool], tuple[nn.Module, ...]] = OrderedDict()
        # Who is where, in what batch -> what the hooks add of them
        self._placed: OrderedDict[Hashable, Term] = OrderedDict()
        # Of the last latents; None where every step was computed
        self.cache: Cache | None = None

    def latents(
        self,
        jobs: Sequence[Job],
        texts: Sequence[Texts],
        starts: Sequence[Tensor | None],
        on_step: Callable[[int, int], None] = lambda done, total: None,
        on_denoised: Callable[[Tensor], None] | None = None,
        noisy: bool = False,
        references: Tensor | None = None,
        controls: Sequence[Control] = (),
    ) -> Tensor:
        """(B, 16, H/8, W/8) float32, of jobs with one `batch_key`.

        starts: the encoded starting picture of each job, (1, 16, H/8, W/8), or None. on_denoised:
        called with what the latents would come to, of that shape, by each evaluation; if noisy,
        with what went into it. references: tokens (1, R, 64) of what the first job, which is alone
        then, refers to. controls: its ControlNets. The numbers may be NaN if the model's are.
        """
        request, times = jobs[0].request, jobs[0].times
        size = request.width, request.height
        noises = [NoiseStream(job.seed, *size, request.rng, job.draws_before) for job in jobs]
        first = []
        for start, noise in zip(starts, noises, strict=True):
            first.append(add_noise(start, noise.draw(), times[0]))

        def fresh_noise() -> Tensor:
            return pack(torch.cat([noise.draw() for noise in noises])).to(self.device)

        show = None
        if on_denoised is not None:

            def show(packed: Tensor) -> None:
                on_denoised(unpack(packed, request.width, request.height))

        with ExitStack() as stack:
            predict = self._predict(jobs, texts, references, controls, stack)
            packed = denoise(
                predict,
                pack(torch.cat(first)).to(self.device),
                times,
                method=request.sampling_method,
                eta=request.eta,
                guidance=_guidance(jobs[0]),
                inpaint=self._inpaint(jobs, starts),
                fresh_noise=fresh_noise,
                on_step=on_step,
                on_denoised=show,
                noisy=noisy,
            )
        return unpack(packed, request.width, request.height)

    # -------------------------------------------------------------------------------------- predict

    def _predict(
        self,
        jobs: Sequence[Job],
        texts: Sequence[Texts],
        references: Tensor | None,
        controls: Sequence[Control],
        stack: ExitStack,
    ) -> Predict:
        """The model as the denoise loop wants it. What it hangs on the model goes with `stack`."""
        request, device = jobs[0].request, self.device
        ids = [position_ids(request.width, request.height)]
        picture_tokens = len(ids[0])
        for reference in jobs[0].conditions.references:
            high, wide = reference.pixels.shape[:2]
            ids.append(position_ids(wide, high, reference.place))
        img_ids = torch.cat(ids).to(device)
        if references is not None:
            references = references.to(device, self.dtype)
        scales = torch.tensor([job.request.guidance for job in jobs], device=device)
        guidance = scales if self.dev else None
        states = {"positive": _joined([text.positive for text in texts])}
        if jobs[0].guided:
            states["negative"] = _joined([text.negative for text in texts if text.negative])
        # without an identity no hook is attached at all: run A of the three-way check is Flux alone
        injection, people = None, {}
        if any(job.subjects for job in jobs):
            injection = stack.enter_context(attach(self.flux))
            if references is not None:
                injection.picture_tokens = picture_tokens
            people = {branch: self._people(jobs, branch == "negative") for branch in states}
        skip = None
        if request.skip_guidance.scale:
            skip = stack.enter_context(skip_layers(self.flux, request.skip_guidance.layers))
        # behind the identity's hooks, so that these read what a block itself computes
        added = stack.enter_context(attach_controls(self.flux)) if controls else None
        cache = self.cache = self._step_cache(request.step_cache, stack)
        recordings = None
        if added is None and not isinstance(cache, BlockCache):
            recordings = self._recordings_for(jobs, len(jobs) * len(img_ids), people)

        def predict(latent: Tensor, t: float, *, step: int, branch: Branch) -> Tensor:
            side = "negative" if branch == "negative" else "positive"
            text = states[side]
            if injection is not None:
                injection.terms = _terms_at(step, jobs[0].steps, people[side])
            if skip is not None:
                skip.active = branch == "skip"
            seen = tuple(control for control in controls if control.active(step, jobs[0].steps))

            def compute() -> Tensor:
                tokens = latent.to(self.dtype)
                time = torch.full((len(jobs),), t, device=device)
                txt_ids = torch.zeros(text.t5.shape[1], 3, device=device)
                if added is not None:
                    added.residuals = [
                        control.predict(
                            hidden_states=tokens,
                            encoder_hidden_states=text.t5,
                            pooled_projections=text.pooled,
                            timestep=time,
                            guidance=scales,
                            img_ids=img_ids[:picture_tokens],
                            txt_ids=txt_ids,
                        )
                        for control in seen
                    ]
                if references is not None:
                    tokens = torch.cat([tokens, references], dim=1)
                inputs = {
                    "hidden_states": tokens,
                    "encoder_hidden_states": text.t5,
                    "pooled_projections": text.pooled,
                    "timestep": time,
                    "img_ids": img_ids,
                    "txt_ids": txt_ids,
                }
                if guidance is not None:
                    inputs["guidance"] = guidance
                if recordings is None:
                    velocity = self._forward(**inputs)
                else:
                    left_out = request.skip_guidance.layers if branch == "skip" else ()
                    velocity = self._recorded(recordings, inputs, injection, left_out)
                # the latent stays float32: adding 28 small steps in bfloat16, as the reference
                # does, loses them to rounding
                return velocity[:, :picture_tokens].float()

            # a branch without some layers is computed whole: it runs in few steps, early ones
            if cache is None or branch == "skip":
                return compute()
            people_now = injection.state() if injection is not None else None
            return cache.evaluate(Evaluation(latent, t, step, branch, (people_now, seen)), compute)

        return predict

    def _forward(self, **inputs: Tensor) -> Tensor:
        return self.flux(**inputs, return_dict=False)[0]

    def _recorded(
        self,
        recordings: Recordings,
        inputs: Mapping[str, Tensor],
        injection: Injection | None,
        left_out: Sequence[int],
    ) -> Tensor:
        """As `_forward`, from a recording once there is one. left_out: numbers of blocks."""
        people: Hashable = None
        layers: list[object] = []
        if injection is not None:
            people = injection.reads()
            layers = [term.layers for term in injection.terms]
        return recordings.run((people, tuple(left_out)), inputs, self._forward, layers)

    def _recordings_for(
        self,
        jobs: Sequence[Job],
        tokens: int,
        people: Mapping[str, Sequence[tuple[Subject, Term]]],
    ) -> Recordings | None:
        """None where jobs of so many image tokens are drawn without. people: by branch."""
        if self.recordings is None or not self._records(tokens):
            return None
        steps, kinds = jobs[0].steps, 0
        for side in people.values():
            uses: Counter[Hashable] = Counter()
            for step in range(steps):
                uses[tuple(subject.weights_at(step, steps) for subject, _ in side)] += 1
            replayed = sum(max(count - 2, 0) for count in uses.values())
            if len(uses) > USUAL_WEIGHTS and replayed < LEAST_REPLAYED * steps:
                return None
            kinds = max(kinds, len(uses))
        # or the last of a picture would drive out its first
        branches = len(people) + bool(jobs[0].request.skip_guidance.scale)
        is_usual = kinds <= USUAL_WEIGHTS
        return self.recordings if is_usual or branches * kinds <= MOST_RECORDINGS else None

    def changed(self) -> None:
        """To be called when something was put on Flux, or taken off, that stays for several jobs:
        recordings do not notice.
        """
        if self.recordings is not None:
            self.recordings.forget()

    def _step_cache(self, asked: StepCache | None, stack: ExitStack) -> Cache | None:
        """What is asked for the steps; it goes with `stack`."""
        if asked is None:
            return None
        if not asked.of_blocks:
            return EasyCache(asked, self.dev)
        blocks = len(self.flux.transformer_blocks) + len(self.flux.single_transformer_blocks)
        return stack.enter_context(BlockCache(asked, blocks).attached(self.flux))

    def _inpaint(self, jobs: Sequence[Job], starts: Sequence[Tensor | None]) -> Inpaint | None:
        masks, images, first = [], [], None
        for job, start in zip(jobs, starts, strict=True):
            if start is None or job.start is None or job.start.mask is None:
                continue
            if job.start.late:
                masks.append(late_mask(job.start.mask))
                first = job.times[0]
            else:
                masks.append(latent_mask(job.start.mask))
            images.append(pack(start))
        if not masks:
            return None
        return Inpaint(torch.cat(masks).to(self.device), torch.cat(images).to(self.device), first)

    # ----------------------------------------------------------------------------------- identities

    def _people(self, jobs: Sequence[Job], negative: bool) -> list[tuple[Subject, Term]]:
        """The people of one branch, each with what the hooks add of them. Rows that show the same
        person in the same way share one; a person who is named twice in one picture counts twice.
        """
        rows_of: dict[Hashable, tuple[Subject, str, list[int]]] = {}
        for row, job in enumerate(jobs):
            for index, subject in enumerate(job.subjects):
                key = (
                    index,
                    subject.embedding.sha256,
                    subject.region_sha256,
                    subject.weight,
                    subject.schedule,
                )
                entry = rows_of.setdefault(key, (subject, job.request.negative_id, []))
                entry[2].append(row)
        people: list[tuple[Subject, Term]] = []
        for subject, negative_id, rows in rows_of.values():
            layers = self._layers(subject.embedding, negative, negative_id)
            if layers is None:
                continue
            shown_in = tuple(rows) if len(jobs) > 1 else None
            # of this size and batch, and one for each who is named: a person who is there twice has
            # two weights
            size = jobs[0].request.width, jobs[0].request.height, len(jobs)
            place = len(people), subject.region_sha256, shown_in, size
            people.append((subject, self._term(place, layers, subject.region, shown_in)))
        return people

    def _term(
        self,
        place: Hashable,
        layers: tuple[nn.Module, ...],
        region: np.ndarray | None,
        rows: tuple[int, ...] | None,
    ) -> Term:
        """What is added of a person with these layers: for an equal place the same one as for an
        earlier picture, so that recordings find the tensors that they read.
        """
        if region is None and rows is None:
            return Term(layers)
        key = place, layers
        if key not in self._placed:
            self._placed[key] = Term(layers, region=region, rows=rows)
        self._placed.move_to_end(key)
        while len(self._placed) > REGIONS_KEPT:
            self._placed.popitem(last=False)
        return self._placed[key]

    def _layers(
        self, embedding: Embedding, negative: bool, negative_id: str
    ) -> tuple[nn.Module, ...] | None:
        """The identity's layers for one branch, folded now or kept from before. None where the
        branch gets no identity.
        """
        if negative and negative_id == "none":
            return None
        unconditional = negative and negative_id == "uncond"
        key = embedding.sha256, unconditional
        if key not in self._bound:
            tokens = embedding.uncond if unconditional else embedding.tokens
            # the fitting has checked both
            assert self.adapter is not None
            assert tokens is not None
            self._bound[key] = self.adapter.bind(
                tokens, self.dtype, self.device, where=embedding.source
            )
        self._bound.move_to_end(key)
        while len(self._bound) > self.kept:
            _, gone = self._bound.popitem(last=False)
            for other in [other for other, term in self._placed.items() if term.layers is gone]:
                del self._placed[other]
            if self.recordings is not None:
                self.recordings.forget(gone)
        return self._bound[key]


def _terms_at(step: int, steps: int, people: Sequence[tuple[Subject, Term]]) -> list[Term]:
    """The terms of those who are seen at a step, with its weights. Outside the window nothing is
    computed; inside, a weight of 0 still is.
    """
    terms = []
    for subject, term in people:
        if subject.schedule.active(step, steps):
            term.double, term.single = subject.weights_at(step, steps)
            terms.append(term)
    return terms


def _guidance(job: Job) -> Guidance:
    request, slg = job.request, job.request.skip_guidance
    guided = frozenset(step for step in range(job.steps) if slg.active(step, job.steps))
    return Guidance(request.cfg_scale, request.cfg_start_step, slg.scale, guided)


def _joined(states: Sequence[TextStates]) -> TextStates:
    if len(states) == 1:
        return states[0]
    t5, pooled = [state.t5 for state in states], [state.pooled for state in states]
    return TextStates(torch.cat(t5), torch.cat(pooled))
