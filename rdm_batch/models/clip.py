"""Image and text encoders with one embedding space (CLIP, Radford et al. 2021, arXiv:2103.00020).

The networks are open_clip's own classes in two sizes: small ones with a word vocabulary,
whose single safetensors file carries its architecture, and the published models, by their
open_clip name with a local weights file. Nothing is ever downloaded.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from rdm_batch.backends import multiplying
from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.files import open_regular
from rdm_batch.formats.safetensors_file import stored_metadata, write_tensors
from rdm_batch.formats.weights_file import WeightsFile, open_weights
from rdm_batch.models.checkpoint import FORMAT
from rdm_batch.specs.messages import first_problem
from rdm_batch.specs.networks import ClipArchitecture
from rdm_batch.transfers import arrived, leave, upload

if TYPE_CHECKING:
    from open_clip.model import CLIP

_BATCH = 256
_CENTERED = (0.5, 0.5, 0.5)
_PAD = 0
_WORD = re.compile(r"[a-z0-9]+")


@runtime_checkable
class ImageTextEncoder(Protocol):
    """Map images and texts into one embedding space."""

    name: str
    dim: int
    digest: str
    image_size: int

    def encode_images(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> Float32[np.ndarray, "image dim"]:
        """Embed images of any size; the rows are not normalized."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Embed texts; the rows are not normalized."""
        ...


class WordTokenizer:
    """Turn texts into word numbers: start, one per word, end, then padding.

    Case and punctuation are ignored. The end mark has the highest number, because that is
    where open_clip's text tower reads its result.

    Args:
        vocabulary: Known words, lower case; word ``i`` has the number ``i + 1``.
        context_length: Numbers per text, start and end included.
    """

    def __init__(self, vocabulary: Sequence[str], context_length: int) -> None:
        self._numbers = {word: i + 1 for i, word in enumerate(vocabulary)}
        self._length = context_length
        self.vocab_size = len(vocabulary) + 3

    def __call__(self, texts: Sequence[str]) -> Int64[Tensor, "text token"]:
        """Tokenize texts.

        Raises:
            SpecError: If a text is empty, too long, or has an unknown word. There is no
                catch-all token: an encoder that has never seen a word cannot follow it.
        """
        rows = torch.full((len(texts), self._length), _PAD, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            words = split_words(text)
            unknown = [word for word in words if word not in self._numbers]
            if unknown:
                known = ", ".join(sorted(self._numbers))
                raise SpecError(
                    f"text {text!r}", f"unknown words: {', '.join(unknown)}", f"words among {known}"
                )
            if not 0 < len(words) <= self._length - 2:
                raise SpecError(
                    f"text {text!r}", f"{len(words)} words", f"1 to {self._length - 2} words"
                )
            numbers = [self._numbers[word] for word in words]
            row[: len(words) + 2] = torch.tensor(
                [self.vocab_size - 2, *numbers, self.vocab_size - 1]
            )
        return rows


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words, leaving out punctuation."""
    return _WORD.findall(text.lower())


def collect_vocabulary(texts: Iterable[str]) -> tuple[str, ...]:
    """List the words of some texts in alphabetical order."""
    return tuple(sorted({word for text in texts for word in split_words(text)}))


class OpenClipEncoder:
    """Encode with an open_clip model.

    Args:
        model: The networks.
        name: Name of the encoder, recorded in databases.
        digest: Identifies weights and architecture.
        tokenize: Turns texts into token numbers.
        mean: Subtracted from each channel of pixels scaled to 0..1.
        std: Divides each channel afterwards.
        device: Where to compute.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        digest: str,
        tokenize: Callable[[Sequence[str]], Int64[Tensor, "text token"]],
        mean: Sequence[float],
        std: Sequence[float],
        device: str = "cpu",
    ) -> None:
        self.name = name
        self.digest = digest
        visual: Any = model.visual
        size = visual.image_size
        self.image_size = int(size[0] if isinstance(size, tuple) else size)
        self.dim = int(visual.output_dim)
        self._model: Any = model.to(device).eval()
        self._tokenize = tokenize
        self._mean, self._std = mean, std
        self._device = device
        self.gpu_s: float | None = 0.0 if device.startswith("cuda") else None
        """Seconds that batches of images took on the GPU, from the first operation to the last."""

    @torch.inference_mode()
    @multiplying()
    def encode_images(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> Float32[np.ndarray, "image dim"]:
        """Embed images of any size; the rows are not normalized.

        Other sizes are resized (bicubic, shorter side to ``image_size``) and cut to their
        center, as open_clip does.
        """
        rows = [torch.empty(0, self.dim)]
        marks: list[Any] = []
        for start in range(0, len(images), _BATCH):
            fitted = [_fit(image, self.image_size) for image in images[start : start + _BATCH]]
            # Bytes are copied, a quarter of what they are scaled to.
            self._mark(marks)
            pixels = upload(np.stack(fitted), self._device)
            scaled = pixels_to_clip(pixels, self._mean, self._std)
            rows.append(leave(self._model.encode_image(scaled).float()))
            self._mark(marks)
        arrived(self._device)
        for begun, ended in zip(marks[::2], marks[1::2], strict=True):
            self.gpu_s = (self.gpu_s or 0.0) + begun.elapsed_time(ended) / 1e3
        return np.concatenate([some.numpy() for some in rows])

    def _mark(self, marks: list[Any]) -> None:
        """Mark how far the GPU was told to go, and when it gets there; nothing on a CPU."""
        if self.gpu_s is not None:
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()

    @torch.inference_mode()
    @multiplying()
    def encode_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Embed texts; the rows are not normalized.

        Raises:
            SpecError: If an encoder with a word vocabulary does not know a word.
        """
        rows = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(texts), _BATCH):
            tokens = self._tokenize(list(texts[start : start + _BATCH])).to(self._device)
            rows.append(self._model.encode_text(tokens).float().cpu().numpy())
        return np.concatenate(rows)


def load_encoder(
    path_or_name: str | Path, weights_path: str | Path | None = None, device: str = "cpu"
) -> OpenClipEncoder:
    """Load an image and text encoder from local files.

    Args:
        path_or_name: A file written by ``save_clip`` (a path, or text ending in
            ``.safetensors``), or the name of an open_clip model, such as ``ViT-B-32-quickgelu``
            (the one OpenAI's ViT-B/32 weights need).
        weights_path: The weights of a named model: safetensors or a state dict. Must be None
            with a file of this package, which carries everything.
        device: Where to compute.

    Raises:
        CheckpointError: If a file is missing, damaged or not what the model needs, or the
            name is unknown.
    """
    if isinstance(path_or_name, Path) or path_or_name.endswith(".safetensors"):
        if weights_path is not None:
            raise CheckpointError(
                str(path_or_name), f"a second weights file, {weights_path}", "one of them"
            )
        return _load_small(Path(path_or_name), device)
    return _load_published(str(path_or_name), weights_path, device)


def build_clip(architecture: ClipArchitecture) -> CLIP:
    """Build an untrained encoder from open_clip's classes."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    return CLIP(
        embed_dim=architecture.embed_dim,
        vision_cfg=CLIPVisionCfg(
            layers=architecture.vision_layers,
            width=architecture.vision_width,
            head_width=architecture.head_width,
            image_size=architecture.image_size,
        ),
        text_cfg=CLIPTextCfg(
            context_length=architecture.context_length,
            vocab_size=len(architecture.vocabulary) + 3,
            width=architecture.text_width,
            heads=max(architecture.text_width // architecture.head_width, 1),
            layers=architecture.text_layers,
        ),
    )


def save_clip(model: nn.Module, architecture: ClipArchitecture, path: Path) -> None:
    """Write an encoder to one safetensors file, numbers in float16.

    Args:
        model: An encoder of that architecture.
        architecture: Stored in the file's metadata.
        path: File to write.
    """
    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = {"format": FORMAT, "architecture": architecture.model_dump_json()}
    write_tensors(path, metadata, state)


def load_clip(path: Path) -> tuple[CLIP, ClipArchitecture]:
    """Read what ``save_clip`` wrote, as float32.

    Raises:
        CheckpointError: If the file is missing, damaged or something else.
    """
    file = open_weights(path)
    architecture = _architecture_of(file)
    # Shapes first, and without memory: the architecture is what the file says it is.
    with torch.device("meta"):
        needed = {
            name: tuple(value.shape)
            for name, value in build_clip(architecture).state_dict().items()
        }
    found = {name: entry.shape for name, entry in file.entries.items()}
    if found != needed:
        wrong = sorted(
            name for name in found.keys() | needed.keys() if found.get(name) != needed.get(name)
        )
        raise CheckpointError(
            str(path), "weights of another architecture", f"other {', '.join(wrong[:3])}"
        )
    model = build_clip(architecture)
    model.load_state_dict({name: _widened(tensor) for name, tensor in file.read_all().items()})
    return model, architecture


def pixels_to_clip(
    pixels: UInt8[Tensor, "batch height width 3"],
    mean: Sequence[float] = _CENTERED,
    std: Sequence[float] = _CENTERED,
) -> Float[Tensor, "batch 3 height width"]:
    """Scale pixels to what an image tower expects; the defaults give -1 to 1."""
    scaled = pixels.permute(0, 3, 1, 2).float() / 255
    means, stds = (_by_channel(tuple(values), pixels.device) for values in (mean, std))
    return (scaled - means) / stds


@cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Float32[Tensor, "3 1 1"]:
    """Give a number for each channel, copied to a device once."""
    with torch.inference_mode(False):  # training scales by the same numbers
        return torch.tensor(values).to(device).view(3, 1, 1)


def _fit(image: UInt8[np.ndarray, "_ _ 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    height, width = image.shape[:2]
    if height == width == size:
        return image
    scale = size / min(height, width)
    fitted = (max(round(width * scale), size), max(round(height * scale), size))
    resized = np.asarray(Image.fromarray(image).resize(fitted, Image.Resampling.BICUBIC))
    top, left = (fitted[1] - size) // 2, (fitted[0] - size) // 2
    return resized[top : top + size, left : left + size]


def encoder_digest(path_or_name: str | Path, weights_path: str | Path | None = None) -> str:
    """Identify an encoder without loading it; arguments as ``load_encoder``.

    Raises:
        CheckpointError: If a file is missing.
    """
    if weights_path is None:
        return _digest(Path(path_or_name))
    return _digest(Path(weights_path), str(path_or_name))


def carries_encoder(path: Path) -> bool:
    """Say whether a file is a whole encoder of this package, by what is stored in it.

    Args:
        path: A file written by ``save_clip``, or weights of an open_clip model in any format.

    Raises:
        CheckpointError: The file is another one of this package, or damaged.
    """
    metadata = stored_metadata(path)
    if metadata.get("format") != FORMAT:
        return False
    _parse_architecture(metadata, str(path))
    return True


def unknown_model(name: str) -> str | None:
    """Suggest other names where open_clip has no model of a name; None where it has."""
    import open_clip

    if open_clip.get_model_config(name) is not None:
        return None
    close = difflib.get_close_matches(name, open_clip.list_models(), n=3)
    return f"for example {', '.join(close)}" if close else "a name open_clip knows"


def read_word_tokenizer(path: Path) -> WordTokenizer:
    """Read the tokenizer of an encoder of this package, without its weights.

    Args:
        path: A safetensors file written by ``save_clip``.

    Raises:
        CheckpointError: If the file is damaged or something else.
    """
    return _word_tokenizer(_architecture_of(open_weights(path)))


def _digest(path: Path, *settings: str) -> str:
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256")
    except FileNotFoundError:
        raise CheckpointError(str(path), "no such file", "the encoder's weights") from None
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror})") from None
    for setting in settings:
        digest.update(setting.encode())
    return digest.hexdigest()


def _load_small(path: Path, device: str) -> OpenClipEncoder:
    digest = _digest(path)
    model, architecture = load_clip(path)
    return OpenClipEncoder(
        model,
        architecture.name,
        digest,
        _word_tokenizer(architecture),
        _CENTERED,
        _CENTERED,
        device,
    )


def _architecture_of(file: WeightsFile) -> ClipArchitecture:
    where = str(file.path)
    if file.metadata.get("format") != FORMAT:
        raise CheckpointError(where, "no architecture in its metadata", "a file of `train clip`")
    return _parse_architecture(file.metadata, where)


def _parse_architecture(metadata: Mapping[str, str], where: str) -> ClipArchitecture:
    try:
        return ClipArchitecture.model_validate_json(metadata.get("architecture", ""))
    except ValidationError as error:
        found = f"not an image and text encoder ({first_problem(error, 'its architecture')})"
        raise CheckpointError(where, found) from error


def _word_tokenizer(architecture: ClipArchitecture) -> WordTokenizer:
    return WordTokenizer(architecture.vocabulary, architecture.context_length)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _load_published(name: str, weights_path: str | Path | None, device: str) -> OpenClipEncoder:
    import open_clip

    suggested = unknown_model(name)
    if suggested is not None:
        raise CheckpointError(
            f"encoder {name}", "neither a .safetensors file nor an open_clip model", suggested
        )
    if weights_path is None:
        raise CheckpointError(
            f"encoder {name}", "no weights file", "a local file", "nothing is downloaded"
        )
    path = Path(weights_path)
    digest = _digest(path, name)
    needed = f"a state dict of open_clip's {name}"
    try:
        state = open_weights(path).read_all()
    except CheckpointError as error:
        raise CheckpointError(str(path), f"not weights of {name}: {error.found}", needed) from None
    # Weights come from the file alone; open_clip would fetch a text tower's own otherwise.
    model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    try:
        with TemporaryDirectory() as folder:
            # open_clip reads files alone: it gets one that this package wrote.
            trusted = Path(folder) / "weights.safetensors"
            write_tensors(trusted, {}, state)
            del state
            open_clip.load_checkpoint(model, str(trusted))
    except (RuntimeError, ValueError, KeyError, StopIteration) as error:
        raise CheckpointError(str(path), f"not weights of {name} ({error})", needed) from None
    except OSError as error:
        raise CheckpointError(
            str(path),
            f"its {path.stat().st_size:,} bytes cannot be copied to a temporary folder "
            f"({error.strerror})",
            action="make room there, or set TMPDIR to another",
        ) from None
    settings = open_clip.get_model_preprocess_cfg(model)
    return OpenClipEncoder(
        model,
        name,
        digest,
        open_clip.get_tokenizer(name),
        settings.get("mean") or open_clip.OPENAI_DATASET_MEAN,
        settings.get("std") or open_clip.OPENAI_DATASET_STD,
        device,
    )
