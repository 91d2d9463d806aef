"""From requests to pictures: the only file that knows the order of the stages and which device each model runs on.

    prompts -> CLIP-L, T5 -> (freed) -> Flux with PuLID's hooks, denoise every job -> (freed) -> autoencoder -> pictures

Everything that headers can tell is checked before the first weight is read. Knows nothing of flags, exit codes or output files.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn

from pulid_extract.embedding_file import Embedding
from pulid_extract.model_files import Found, find
from pulid_generate import __version__, sampling
from pulid_generate.checkpoints import FluxShape, flux_shape, load_flux, load_vae
from pulid_generate.errors import CheckpointError, IdentityError, RequestError
from pulid_generate.injection import Injection, PulidAdapter, attach, check_fit
from pulid_generate.request import GenerationRequest, describe
from pulid_generate.tensor_files import shapes_of
from pulid_generate.text_encoders import ClipText, T5Text
from pulid_generate.vae import decode
from pulid_generate.weights import CLIP_L, FLUX, PULID, T5XXL, VAE
from pulid_generate.widening import widen_while_running

if TYPE_CHECKING:
    import numpy as np

DEFAULT_STEPS = {True: 20, False: 4}  # dev, schnell
MEMORY_MARGIN = 1.15  # room for activations on top of the weights


@dataclass(frozen=True)
class ModelFiles:
    """The files of one generation, found and recognised. pulid is None when no identity is asked for."""

    flux: Found
    vae: Found
    clip_l: Found
    t5xxl: Found
    pulid: Found | None = None
    t5_tokenizer: Path | None = None

    @classmethod
    def find(
        cls,
        *,
        flux: str | Path | None = None,
        vae: str | Path | None = None,
        clip_l: str | Path | None = None,
        t5xxl: str | Path | None = None,
        pulid: str | Path | None = None,
        t5_tokenizer: str | Path | None = None,
        models_dir: str | Path | None = None,
        with_pulid: bool = True,
    ) -> ModelFiles:
        """Each explicit path, else the models folder, else the Hugging Face cache. Raises WeightsError."""
        return cls(
            flux=find(FLUX, flux, models_dir),
            vae=find(VAE, vae, models_dir),
            clip_l=find(CLIP_L, clip_l, models_dir),
            t5xxl=find(T5XXL, t5xxl, models_dir),
            pulid=find(PULID, pulid, models_dir) if with_pulid else None,
            t5_tokenizer=Path(t5_tokenizer) if t5_tokenizer else None,
        )


@dataclass(frozen=True)
class Placement:
    """Where the models run, and in what arithmetic.

    offload: keep Flux's and the text encoders' weights in main memory and bring each block to the device when it runs.
    """

    device: torch.device
    text_device: torch.device
    vae_device: torch.device
    dtype: torch.dtype
    offload: bool = False

    @classmethod
    def choose(
        cls,
        device: str = "auto",
        dtype: str = "auto",
        *,
        clip_on_cpu: bool = False,
        vae_on_cpu: bool = False,
        offload: bool = False,
    ) -> Placement:
        """device: "auto", "cuda", "cuda:1", "mps" or "cpu". dtype: "auto" or a torch dtype's name. Raises RequestError."""
        main = _device(device)
        cpu = torch.device("cpu")
        # bfloat16 matrix products are several times slower than float32 ones on most CPUs, and less exact
        kind = dtype if dtype != "auto" else "float32" if main.type == "cpu" else "bfloat16"
        return cls(main, cpu if clip_on_cpu else main, cpu if vae_on_cpu else main, getattr(torch, kind), offload)

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The arithmetic of a model that runs on `device`: a CPU beside a GPU computes in float32."""
        return torch.float32 if device.type == "cpu" != self.device.type else self.dtype


@dataclass(frozen=True)
class Job:
    """One picture: a request with its schedule, its own seed, and an identity or None (then no hook is attached)."""

    request: GenerationRequest
    seed: int
    embedding: Embedding | None = None


@dataclass(frozen=True)
class Picture:
    """pixels: (H, W, 3) uint8 RGB. parameters: the text of the PNG chunk."""

    job: Job
    pixels: np.ndarray = field(repr=False)
    parameters: str

    def png(self, metadata: bool = True) -> bytes:
        """The PNG file. The same picture gives the same bytes."""
        from PIL import Image, PngImagePlugin

        info = PngImagePlugin.PngInfo()
        if metadata:
            info.add_itxt("parameters", self.parameters) if not self.parameters.isascii() else info.add_text(
                "parameters", self.parameters
            )
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()


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
    ):
        """Checks from headers alone that the files belong together. Raises CheckpointError, IdentityError or WeightsError."""
        self.files, self.placement, self.log, self.on_step = files, placement, log, on_step
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
        with torch.inference_mode():
            states = self._encode({text for job in jobs for text in _prompts(job.request)}, jobs)
            latents = self._denoise(jobs, states)
            states.clear()
            with self._loaded("autoencoder", self._load_vae) as vae:
                for job, latent in zip(jobs, latents, strict=True):
                    pixels = decode(vae, latent, tiling=job.request.vae_tiling)
                    yield Picture(job, pixels, self._describe(job))

    # ------------------------------------------------------------------------------------------------------------- stages

    def _encode(self, prompts: Iterable[str], jobs: Sequence[Job]) -> dict[tuple[str, int], TextStates]:
        """States by (prompt, T5 length)."""
        lengths = sorted({(text, job.request.t5_max_length) for job in jobs for text in _prompts(job.request)})
        target = {"device": self.placement.device, "dtype": self.placement.dtype}
        with self._loaded("CLIP-L", self._load_clip) as clip:
            pooled = {text: clip.encode(text, self.log).to(**target) for text in sorted(prompts)}
        with self._loaded("T5", self._load_t5) as t5:
            return {
                (text, length): TextStates(t5.encode(t5.tokens(text, length, self.log)).to(**target), pooled[text])
                for text, length in lengths
            }

    def _denoise(self, jobs: Sequence[Job], states: dict[tuple[str, int], TextStates]) -> list[Tensor]:
        """Unpacked latents (1, 16, H/8, W/8), float32, of every job."""
        with self._loaded("Flux", self._load_flux) as flux:
            bound: dict[int, tuple[nn.Module, ...]] = {}  # by id() of the token arrays; jobs keep them alive
            latents = []
            for index, job in enumerate(jobs):
                label = f"picture {index + 1} of {len(jobs)}" if len(jobs) > 1 else "denoise"
                if job.embedding is None:
                    latents.append(self._denoise_one(flux, job, states, None, {}, label))
                    continue
                branches = {}
                for negative, tokens in self._branches(job).items():
                    if tokens is not None and id(tokens) not in bound:
                        bound[id(tokens)] = self.adapter.bind(tokens, self.placement.dtype, self.placement.device)  # type: ignore[union-attr]
                    branches[negative] = bound[id(tokens)] if tokens is not None else None
                with attach(flux) as injection:
                    injection.weight = job.request.id_weight
                    latents.append(self._denoise_one(flux, job, states, injection, branches, label))
            return latents

    def _denoise_one(
        self,
        flux: Any,
        job: Job,
        states: dict[tuple[str, int], TextStates],
        injection: Injection | None,
        branches: dict[bool, tuple[nn.Module, ...] | None],
        label: str,
    ) -> Tensor:
        request, device, dtype = job.request, self.placement.device, self.placement.dtype
        img_ids = sampling.position_ids(request.width, request.height).to(device)
        guidance = torch.tensor([request.guidance], device=device) if self.dev else None

        def predict(latent: Tensor, t: float, *, negative: bool, with_identity: bool) -> Tensor:
            text = states[request.negative_prompt if negative else request.prompt, request.t5_max_length]
            if injection is not None:
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
        from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

        device = self.placement.text_device
        dtype = self.placement.dtype_on(device)
        if dtype == torch.float16:
            dtype = torch.bfloat16  # T5-XXL's activations overflow float16
        keep = self._keep_narrow("T5", self.files.t5xxl, device, dtype)
        t5 = T5Text.load(self.files.t5xxl.header, self.files.t5_tokenizer, None if keep else dtype, self._store(device))
        if keep:
            # T5DenseGatedActDense looks at wo's dtype before it runs it: widen it whole, or activations are cut to 16 bits
            widen_while_running(t5.model, whole=(T5DenseGatedActDense,))
        self._offload(t5.model, device)
        return t5

    def _load_flux(self) -> Any:
        device, dtype = self.placement.device, self.placement.dtype
        keep = self._keep_narrow("Flux", self.files.flux, device, dtype)
        flux = load_flux(self.files.flux.header, None if keep else dtype, self._store(device))
        if keep:
            widen_while_running(flux)
        self._offload(flux, device)
        return flux

    def _load_vae(self) -> Any:
        device = self.placement.vae_device
        return load_vae(self.files.vae.header, self.placement.dtype_on(device), device)

    def _keep_narrow(self, name: str, found: Found, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether float32 weights would not fit this machine's memory, so that the file's 16 bits are kept and widened per layer."""
        if device.type != "cpu" or dtype != torch.float32:
            return False
        needed = sum(4 * torch.Size(shape).numel() for _, shape in found.header.tensors.values()) * MEMORY_MARGIN
        if needed <= available_memory():
            return False
        self.log(f"{name}: float32 weights would take {needed / 2**30:.0f} GB; keeping the file's 16 bits, widened per layer")
        return True

    def _store(self, device: torch.device) -> torch.device:
        return torch.device("cpu") if self.placement.offload else device

    def _offload(self, model: Any, device: torch.device) -> None:
        if self.placement.offload and device.type != "cpu":
            from diffusers.hooks import apply_group_offloading

            apply_group_offloading(model, onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level")

    @contextmanager
    def _loaded(self, name: str, load: Callable[[], Any]) -> Iterator[Any]:
        """A model for the length of a stage; its memory is free again before the next stage loads."""
        self.log(f"loading {name}")
        model = load()
        try:
            yield model
        finally:
            del model
            gc.collect()
            if self.placement.device.type == "cuda":
                torch.cuda.empty_cache()
            elif self.placement.device.type == "mps":
                torch.mps.empty_cache()

    # ------------------------------------------------------------------------------------------------------------- checks

    def _check_widths(self) -> None:
        flux, clip, t5 = self.files.flux, self.files.clip_l, self.files.t5xxl
        embedding = shapes_of(clip.header, "text_model.embeddings.token_embedding.weight")
        pooled = embedding["text_model.embeddings.token_embedding.weight"][1]
        if pooled != self.shape.pooled:
            raise CheckpointError(
                f"{clip.path}: has width {pooled}, {flux.path} wants {self.shape.pooled}; they do not belong together"
            )
        context = shapes_of(t5.header, "encoder.block.0.layer.0.SelfAttention.q.weight")
        width = context["encoder.block.0.layer.0.SelfAttention.q.weight"][1]
        if width != self.shape.context:
            raise CheckpointError(
                f"{t5.path}: has width {width}, {flux.path} wants {self.shape.context}; they do not belong together"
            )

    def _check_identity(self, request: GenerationRequest, embedding: Embedding) -> None:
        if self.adapter is None:
            raise IdentityError("an identity needs PuLID's weights; give --pulid-weights pulid_flux_v0.9.1.safetensors")
        for tokens in (embedding.tokens, embedding.uncond):
            if tokens is not None and tokens.shape[1] != self.adapter.token_dim:
                raise IdentityError(
                    f"identity: its tokens are {tokens.shape[0]}x{tokens.shape[1]}, {self.adapter.source} wants rows of "
                    f"{self.adapter.token_dim}; extract it again with that file"
                )
        if request.cfg_scale != 1 and request.negative_id == "uncond" and embedding.uncond is None:
            raise IdentityError(
                f"cfg-scale {request.cfg_scale:g}: the embedding holds no unconditional identity; extract it again with "
                "'pulid-extract --with-uncond', or choose '--negative-id same' (as sd-cli does) or '--negative-id none'"
            )

    def _branches(self, job: Job) -> dict[bool, np.ndarray | None]:
        """Identity tokens of the positive (False) and negative (True) branch."""
        assert job.embedding is not None
        branches: dict[bool, np.ndarray | None] = {False: job.embedding.tokens}
        if job.request.cfg_scale != 1:
            choice = {"uncond": job.embedding.uncond, "same": job.embedding.tokens, "none": None}
            branches[True] = choice[job.request.negative_id]
        return branches

    def _mu(self, request: GenerationRequest) -> float | None:
        """BFL's shift for dev, none for schnell, unless the request says otherwise."""
        if request.flow_shift == "auto":
            return sampling.resolution_mu(sampling.token_count(request.width, request.height)) if self.dev else None
        return None if request.flow_shift == "none" else float(request.flow_shift)

    def _describe(self, job: Job) -> str:
        return describe(
            job.request,
            seed=job.seed,
            dev=self.dev,
            identity=job.embedding.sha256 if job.embedding else None,
            models={name: getattr(self.files, name).path.stem for name in ("flux", "vae", "clip_l", "t5xxl")},
            dtype=str(self.placement.dtype).removeprefix("torch."),
            version=__version__,
        )


def available_memory() -> int:
    """Bytes of main memory that can be taken now, in this container if it is one."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return free
    return min(free, limit - used)


def _prompts(request: GenerationRequest) -> list[str]:
    return [request.prompt, request.negative_prompt] if request.cfg_scale != 1 else [request.prompt]


def _device(name: str) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind, is_there in there.items() if is_there]
    if name == "auto":
        return torch.device(usable[0])
    if name.split(":")[0] not in usable:
        raise RequestError(f"device {name}: not usable here; usable: {', '.join(usable)}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"device {name}: expected auto, cuda, cuda:N, mps or cpu") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"device {name}: there are {torch.cuda.device_count()} cuda devices, counted from 0")
    return device
