"""From requests to pictures: the only file that knows the order of the stages and which device each model runs on.

    prompts -> CLIP-L, T5 -> (freed) -> Flux with PuLID's hooks, denoise every job -> (freed) -> autoencoder -> pictures

Whether the files belong together is read from their headers, before the first weight. Knows nothing of flags, exit codes or output files.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pulid_extract.embedding_file import Embedding
from pulid_extract.model_files import Found
from pulid_generate import __version__, sampling
from pulid_generate.checkpoints import FLUX_MARKER, FluxShape, flux_shape, load_flux, load_vae
from pulid_generate.errors import CheckpointError, IdentityError, PlacementError
from pulid_generate.injection import Injection, PulidAdapter, attach, check_fit
from pulid_generate.model_set import ModelFiles
from pulid_generate.picture import Job, Picture
from pulid_generate.placement import Placement, available_memory
from pulid_generate.request import GenerationRequest, describe
from pulid_generate.tensor_files import shapes_of
from pulid_generate.text_encoders import CLIP_MARKER, T5_MARKER, ClipText, T5Text
from pulid_generate.vae import decode
from pulid_generate.widening import widen_while_running

if TYPE_CHECKING:
    import numpy as np

DEFAULT_STEPS = {True: 20, False: 4}  # dev, schnell
MEMORY_MARGIN = 1.15  # room for activations on top of the weights


@dataclass(frozen=True)
class TextStates:
    """What Flux reads of a prompt: t5 (1, T, C) and pooled (1, P), in the compute dtype on the main device."""

    t5: Tensor
    pooled: Tensor


Log = Callable[[str], None]
OnStep = Callable[[str, int, int], None]  # label of the picture, steps done, steps in all


class Pipeline:
    """Draws jobs with one set of model files. Nothing is loaded until `draw`, and each model only while it is needed."""

    def __init__(
        self,
        files: ModelFiles,
        placement: Placement,
        log: Log = lambda text: None,
        on_step: OnStep = lambda label, done, total: None,
        dequantize: bool = False,
    ):
        """Checks from headers alone that the files belong together. Raises CheckpointError, IdentityError or WeightsError.

        dequantize: widen a GGUF's matrices once, when they load.
        """
        self.files, self.placement, self.log, self.on_step = files, placement, log, on_step
        self.dequantize = dequantize
        self.shape: FluxShape = flux_shape(files.flux.header)
        self.adapter = PulidAdapter.load(files.pulid.path) if files.pulid else None
        if self.adapter:
            check_fit(self.adapter, self.shape.width, self.shape.double, self.shape.single, str(files.flux.path))
        self._check_widths()

    @property
    def dev(self) -> bool:
        """True for a guidance-distilled model (dev), False for schnell."""
        return self.shape.guidance

    def jobs(self, request: GenerationRequest, embedding: Embedding | None = None) -> list[Job]:
        """The request's pictures, seeds seed, seed + 1, ..; its schedule filled in. Raises RequestError or IdentityError."""
        steps = len(request.sigmas) - 1 if request.sigmas else request.steps or DEFAULT_STEPS[self.dev]
        resolved = request.resolved(steps, request.sigmas or tuple(sampling.make_schedule(steps, self._mu(request))))
        if embedding is not None:
            self._check_identity(request, embedding)
        return [Job(resolved, request.seed + index, embedding) for index in range(request.batch_count)]

    def draw(self, jobs: Sequence[Job]) -> Iterator[Picture]:
        """Every job's picture, in order. Raises CheckpointError, and RequestError for a prompt that is too long."""
        pooled = self._stage("CLIP-L", self._pool, jobs)
        states = self._stage("T5", self._encode, jobs, pooled)
        lengths = {key: state.t5.shape[1] for key, state in states.items()}
        latents = self._stage("Flux", self._denoise, jobs, states)
        states.clear()
        vae = self._stage("autoencoder", self._load_vae)
        for job, latent in zip(jobs, latents, strict=True):
            pixels = self._guarded("autoencoder", decode, vae, latent, tiling=job.request.vae_tiling)
            yield Picture(job, pixels, self._describe(job, lengths))

    # ------------------------------------------------------------------------------------------------------------- stages

    def _stage(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run one stage. `work` loads its own model, so that its return drops the last reference: memory is free before the next load."""
        self.log(f"loading {name}")
        try:
            with torch.inference_mode():
                return self._guarded(name, work, *arguments)
        finally:
            gc.collect()
            if self.placement.device.type == "cuda":
                torch.cuda.empty_cache()
            elif self.placement.device.type == "mps":
                torch.mps.empty_cache()

    def _guarded(self, name: str, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call `work`; running out of memory becomes a line that names the flags which help."""
        try:
            return work(*arguments, **options)
        except (torch.OutOfMemoryError, MemoryError):
            raise self._out_of_memory(name) from None
        except RuntimeError as error:  # the CPU's allocator and mps raise a plain one
            if "allocate memory" not in str(error) and "out of memory" not in str(error):
                raise
            raise self._out_of_memory(name) from None

    def _out_of_memory(self, name: str) -> PlacementError:
        where, helps, only_beside_a_cpu = {
            "autoencoder": (self.placement.vae_device, "--vae-tiling, a smaller picture", "--vae-on-cpu"),
            "Flux": (self.placement.device, "a GGUF file, a smaller picture", "--offload-to-cpu"),
        }.get(name, (self.placement.text_device, "a smaller t5xxl file", "--clip-on-cpu, --offload-to-cpu"))
        if where.type != "cpu":
            helps = f"{only_beside_a_cpu}, {helps}"
        return PlacementError(f"{name}: out of memory on {where}; try {helps}")

    def _pool(self, jobs: Sequence[Job]) -> dict[str, Tensor]:
        """CLIP's vector (1, P) of every prompt, in the compute dtype on the main device."""
        clip = self._load_clip()
        pooled = {}
        for text in sorted({text for job in jobs for text in _prompts(job.request)}):
            pooled[text] = clip.encode(text, self.log).to(self.placement.device, self.placement.dtype)
            _check_finite(pooled[text], self.files.clip_l)
        return pooled

    def _encode(self, jobs: Sequence[Job], pooled: dict[str, Tensor]) -> dict[tuple[str, int], TextStates]:
        """What Flux reads of every prompt, by (prompt, T5 length)."""
        t5 = self._load_t5()
        states = {}
        for text, length in sorted({(text, job.request.t5_max_length) for job in jobs for text in _prompts(job.request)}):
            tokens = t5.encode(t5.tokens(text, length, self.log))
            _check_finite(tokens, self.files.t5xxl)
            states[text, length] = TextStates(tokens.to(self.placement.device, self.placement.dtype), pooled[text])
        return states

    def _denoise(self, jobs: Sequence[Job], states: dict[tuple[str, int], TextStates]) -> list[Tensor]:
        """Unpacked latents (1, 16, H/8, W/8), float32, of every job."""
        flux = self._load_flux()
        bound: dict[int, tuple[nn.Module, ...]] = {}  # by id() of the token arrays; jobs keep them alive
        latents = []
        for index, job in enumerate(jobs):
            label = f"picture {index + 1} of {len(jobs)}" if len(jobs) > 1 else "denoise"
            branches = {}
            for negative, tokens in _branches(job).items():
                if id(tokens) not in bound and self.adapter is not None:
                    bound[id(tokens)] = self.adapter.bind(tokens, self.placement.dtype, self.placement.device)
                branches[negative] = bound[id(tokens)]
            # without an identity no hook is attached at all: run A of the three-way check is Flux alone
            with attach(flux) if branches else nullcontext(Injection()) as injection:
                injection.weight = job.request.id_weight
                latents.append(self._denoise_one(flux, job, states, injection, branches, label))
        return latents

    def _denoise_one(
        self,
        flux: Any,
        job: Job,
        states: dict[tuple[str, int], TextStates],
        injection: Injection,
        branches: dict[bool, tuple[nn.Module, ...]],
        label: str,
    ) -> Tensor:
        request, device, dtype = job.request, self.placement.device, self.placement.dtype
        img_ids = sampling.position_ids(request.width, request.height).to(device)
        guidance = torch.tensor([request.guidance], device=device) if self.dev else None

        def predict(latent: Tensor, t: float, *, negative: bool, with_identity: bool) -> Tensor:
            text = states[request.negative_prompt if negative else request.prompt, request.t5_max_length]
            injection.layers = branches.get(negative) if with_identity else None
            return flux(
                hidden_states=latent.to(dtype),
                encoder_hidden_states=text.t5,
                pooled_projections=text.pooled,
                timestep=torch.tensor([t], device=device),
                guidance=guidance,
                img_ids=img_ids,
                txt_ids=torch.zeros(text.t5.shape[1], 3, device=device),
                return_dict=False,
            )[0].float()

        # the latent stays float32 between steps: adding 28 small steps in bfloat16, as the reference does, loses them to rounding
        start = sampling.make_noise(job.seed, request.width, request.height, request.rng) * request.sigmas[0]  # type: ignore[index]
        packed = sampling.denoise(
            predict,
            sampling.pack(start).to(device),
            request.sigmas or (),
            id_start_step=request.id_start_step,
            cfg_scale=request.cfg_scale,
            cfg_start_step=request.cfg_start_step,
            on_step=lambda done, total: self.on_step(label, done, total),
        )
        if not torch.isfinite(packed).all():
            raise CheckpointError(
                f"{self.files.flux.path}: the denoised latents hold NaN or infinite values; a damaged file, or float16 where "
                "--dtype bfloat16 is needed"
            )
        return sampling.unpack(packed, request.width, request.height)

    # ------------------------------------------------------------------------------------------------------------- models

    def _load_clip(self) -> ClipText:
        device = self.placement.text_device
        return ClipText.load(self.files.clip_l.header, self.placement.dtype_on(device), device)

    def _load_t5(self) -> T5Text:
        device = self.placement.text_device
        dtype = self.placement.dtype_on(device)
        if dtype == torch.float16:
            dtype = torch.bfloat16  # T5-XXL's activations overflow float16
        keep = self._keep_narrow("T5", self.files.t5xxl, T5_MARKER, device, dtype)
        t5 = T5Text.load(
            self.files.t5xxl.header, self.files.t5_tokenizer, None if keep else dtype, self.placement.storage(device)
        )
        if keep:
            widen_while_running(t5.model, whole=t5.whole)
        self._offload(t5.model, device)
        return t5

    def _load_flux(self) -> Any:
        device, dtype = self.placement.device, self.placement.dtype
        # quantised matrices are widened per layer in any case; what is left of such a file is small
        quantized = self.files.flux.header.format == "gguf" and not self.dequantize
        keep = not quantized and self._keep_narrow("Flux", self.files.flux, FLUX_MARKER, device, dtype)
        storage = self.placement.storage(device)
        flux = load_flux(self.files.flux.header, None if keep else dtype, storage, dequantize=self.dequantize)
        if keep:
            widen_while_running(flux)
        self._offload(flux, device)
        return flux

    def _load_vae(self) -> Any:
        device = self.placement.vae_device
        return load_vae(self.files.vae.header, self.placement.dtype_on(device), device)

    def _keep_narrow(self, name: str, found: Found, marker: str, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether float32 weights would not fit this machine's memory, so that the file's 16 bits are kept and widened per layer.

        marker: a tensor of the model in question; the file may hold others too.
        """
        if device.type != "cpu" or dtype != torch.float32:
            return False
        needed = sum(4 * torch.Size(shape).numel() for shape in shapes_of(found.header, marker).values()) * MEMORY_MARGIN
        if needed <= available_memory():
            return False
        self.log(f"{name}: float32 weights would take {needed / 2**30:.0f} GiB; keeping the file's 16 bits, widened per layer")
        return True

    def _offload(self, model: Any, device: torch.device) -> None:
        if self.placement.offload and device == self.placement.device:
            from diffusers.hooks import apply_group_offloading

            apply_group_offloading(model, onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level")

    # ------------------------------------------------------------------------------------------------------------- checks

    def _check_widths(self) -> None:
        flux, clip, t5 = self.files.flux, self.files.clip_l, self.files.t5xxl
        for found, marker, wanted, usual in (
            (clip, CLIP_MARKER, self.shape.pooled, "clip_l.safetensors"),
            (t5, T5_MARKER, self.shape.context, "t5xxl_fp16.safetensors"),
        ):
            width = shapes_of(found.header, marker)[marker][-1]
            if width != wanted:
                raise CheckpointError(
                    f"{found.path}: has width {width}, {flux.path} wants {wanted}; they do not belong together, "
                    f"the public Flux files take {usual}"
                )

    def _check_identity(self, request: GenerationRequest, embedding: Embedding) -> None:
        if self.adapter is None:
            raise IdentityError("an identity needs PuLID's weights; give --pulid-weights pulid_flux_v0.9.1.safetensors")
        self.adapter.check_tokens(embedding.tokens.shape, embedding.source)  # uncond has the same width, the format sees to it
        if request.cfg_scale != 1 and request.negative_id == "uncond" and embedding.uncond is None:
            raise IdentityError(
                f"cfg-scale {request.cfg_scale:g}: {embedding.source} holds no unconditional identity; extract it again with "
                "'pulid-extract --with-uncond', or choose '--negative-id same' (as sd-cli does) or '--negative-id none'"
            )

    def _mu(self, request: GenerationRequest) -> float | None:
        """BFL's shift for dev, none for schnell, unless the request says otherwise."""
        if request.flow_shift == "auto":
            return sampling.resolution_mu(sampling.token_count(request.width, request.height)) if self.dev else None
        return None if request.flow_shift == "none" else float(request.flow_shift)

    def _describe(self, job: Job, lengths: dict[tuple[str, int], int]) -> str:
        return describe(
            job.request,
            t5_lengths=tuple(lengths[text, job.request.t5_max_length] for text in _prompts(job.request)),
            seed=job.seed,
            dev=self.dev,
            identity=job.embedding.sha256 if job.embedding else None,
            models={name: getattr(self.files, name).path.stem for name in ("flux", "vae", "clip_l", "t5xxl")},
            dtype=str(self.placement.dtype).removeprefix("torch."),
            version=__version__,
        )


def _branches(job: Job) -> dict[bool, np.ndarray]:
    """Identity tokens of the positive (False) and the negative (True) branch, where they have any."""
    if job.embedding is None:
        return {}
    branches = {False: job.embedding.tokens}
    negative = {"uncond": job.embedding.uncond, "same": job.embedding.tokens, "none": None}[job.request.negative_id]
    if job.request.cfg_scale != 1 and negative is not None:
        branches[True] = negative
    return branches


def _check_finite(states: Tensor, found: Found) -> None:
    if not torch.isfinite(states).all():
        raise CheckpointError(f"{found.path}: gives NaN or infinite states; the file is damaged, download it again")


def _prompts(request: GenerationRequest) -> list[str]:
    return [request.prompt, request.negative_prompt] if request.cfg_scale != 1 else [request.prompt]
