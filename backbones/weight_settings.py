"""Settings of a backbone that its weights decide: the card says them, and an argument must not contradict it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..registry import BACKBONES, lookup
from ..weights.backbone_weights import BackboneWeights, read_backbone, read_card
from ..weights.cards import CONSEQUENCES, FACTS, STRUCTURE, WeightCard, settle
from .stage_plan import Layout, plan_stages


@dataclass(frozen=True)
class WeightSettings:
    """What follows from the weights of a backbone.

    Attributes:
        arguments: the given ones, completed by the card; None if neither says anything.
        card: of the weights; None without weights, or if it cannot be had without reading them.
        weights: to load; None if a checkpoint follows.
    """

    arguments: Mapping[str, Any]
    card: WeightCard | None = None
    weights: BackboneWeights | None = None


def read_settings(
    source: str | None, architecture: str, given: Mapping[str, Any], load_weights: bool
) -> WeightSettings:
    """Read the weights of a backbone, and complete its arguments.

    Args:
        source: where the weights come from; None for random ones.
        architecture: name of the backbone, to find named weights.
        given: arguments by name, of `cards.FACTS`; None stands for one that was not given.
        load_weights: False reads neither the network nor tensors that may have gone: a checkpoint follows, whose config
            says what the weights said. Then the given arguments hold without a check.

    Raises:
        InputError: the weights cannot be read, or an argument contradicts them.
    """
    if not source:
        if given.get("channel_order") is not None:
            raise InputError("channel_order says what weights expect; it needs weights=")
        return WeightSettings(given)
    if load_weights:
        weights = read_backbone(source, architecture, given)
        return WeightSettings(_settle(weights.card, given, source), weights.card, weights)
    try:
        card = read_card(source, architecture, given, download=False)
    except InputError:
        return WeightSettings(given)
    facts = {name: getattr(card, name, None) if value is None else value for name, value in given.items()}
    return WeightSettings(facts, card)


def _settle(card: WeightCard, given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Settle all but the dilation convention, which matters only for some networks, see `settle_convention`."""
    convention = given.get("dilation_convention")
    # the channels of the weights are reversed by now; the argument speaks of the file
    order = given.get("channel_order")
    if None not in (order, card.source_channel_order) and order != card.source_channel_order:
        raise InputError(
            f"channel_order={order!r} contradicts the weights {source}, which were trained with "
            f"channel_order={card.source_channel_order!r}: {CONSEQUENCES['channel_order']}; leave channel_order out"
        )
    settled = settle(
        card, {k: v for k, v in given.items() if k not in ("channel_order", "dilation_convention")}, source
    )
    return settled | {"dilation_convention": convention or card.dilation_convention, "channel_order": order}


def settle_convention(
    given: str | None,
    settings: WeightSettings,
    layout: Layout,
    dilated: Sequence[bool],
    num_stages: int,
    source: str | None,
) -> str:
    """Return the dilation convention of a network: the given one, that of the weights, or "exact".

    Raises:
        InputError: the given one contradicts that of the weights, and changes a convolution; or other stages are
            dilated than in training, and the convention of the weights is not exact, so that features would differ.
    """
    card = settings.card if settings.weights else None
    trained = card.dilation_convention if card else None
    stages = card.dilated_stages if card else None
    if stages and trained and len(stages) == len(dilated):
        exact, theirs = (plan_stages(layout, stages, name)[:num_stages] for name in ("exact", trained))
        if tuple(dilated)[: num_stages - 1] != stages[: num_stages - 1] and exact != theirs:
            raise InputError(
                f"the weights {source} were trained with replace_stride_with_dilation={stages} by the rule of "
                f"{trained}, which is not exact for this network: with other strides its features would differ; "
                f"give replace_stride_with_dilation={stages}"
            )
    if given and trained and plan_stages(layout, dilated, given) != plan_stages(layout, dilated, trained):
        raise InputError(
            f"dilation_convention={given!r} contradicts the weights {source}, which were trained with "
            f"dilation_convention={trained!r}: {CONSEQUENCES['dilation_convention']}; leave it out"
        )
    return given or settings.arguments.get("dilation_convention") or "exact"


def config_card(config: Mapping[str, Any]) -> WeightCard | None:
    """Return the card of the weights in a backbone's config; None if there is none, or it cannot be had.

    Raises:
        InputError: the weights have more than one possible meaning, and the config does not say which.
    """
    architecture = getattr(lookup(BACKBONES, config.get("type", "")), "architecture", None)
    if not config.get("weights") or architecture is None:
        return None
    return read_card(str(config["weights"]), architecture, {name: config.get(name) for name in FACTS})


def settle_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a backbone's config that says what its weights settle, so that it can be built again without them.

    Raises:
        InputError: as `config_card`, or an argument contradicts the weights.
    """
    card = config_card(config)
    if card is None:
        return dict(config)
    given = {name: config.get(name) for name in FACTS}
    settled = _settle(card, given, str(config["weights"]))
    names_norm = config.get("norm_layer") is None and not callable(config.get("norm"))
    names = [name for name in STRUCTURE if settled[name] is not None and (name != "norm_eps" or names_norm)]
    return dict(config) | {name: settled[name] for name in names}
