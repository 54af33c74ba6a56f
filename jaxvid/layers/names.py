"""Name rules of the layers that every family has: the parts a family's `NAMES` is made of.

Each function returns (key, path, layout) rules, as `converters.names` reads them: `key` is the
PyTorch module's name and `path` our module's, without `params/`, both with the same placeholders.
"""

Rule = tuple[str, str | None, str]


def batch_norm(key: str, path: str) -> list[Rule]:
    """PyTorch's BatchNorm at `key` is `layers.norm.BatchNorm` at `path`."""
    return [
        (f"{key}.weight", f"params/{path}/scale", "same"),
        (f"{key}.bias", f"params/{path}/bias", "same"),
        (f"{key}.running_mean", f"batch_stats/{path}/mean", "same"),
        (f"{key}.running_var", f"batch_stats/{path}/var", "same"),
        (f"{key}.num_batches_tracked", None, "drop"),
    ]


def layer_norm(key: str, path: str) -> list[Rule]:
    """PyTorch's LayerNorm at `key` is Flax's at `path`."""
    return [
        (f"{key}.weight", f"params/{path}/scale", "same"),
        (f"{key}.bias", f"params/{path}/bias", "same"),
    ]


def conv(key: str, path: str, layout: str, bias: bool = False) -> list[Rule]:
    """A convolution; `layout` is that of its kernel."""
    rules: list[Rule] = [(f"{key}.weight", f"params/{path}/kernel", layout)]
    return rules + ([(f"{key}.bias", f"params/{path}/bias", "same")] if bias else [])


def dense(key: str, path: str, bias: bool = True) -> list[Rule]:
    """A linear layer."""
    return conv(key, path, "linear", bias)


def conv_norm(key: str, path: str, layout: str) -> list[Rule]:
    """A convolution and its norm (`conv` and `bn` on both sides)."""
    return [*conv(f"{key}.conv", f"{path}/conv", layout), *batch_norm(f"{key}.bn", f"{path}/bn")]


def vit_block(key: str, path: str) -> list[Rule]:
    """A transformer's block, as timm names its parts, is `layers.vit.Block` at `path`."""
    return [
        *layer_norm(f"{key}.{{n:norm1|norm2}}", f"{path}/{{n}}"),
        *dense(f"{key}.attn.{{n:qkv|proj}}", f"{path}/attn/{{n}}"),
        *dense(f"{key}.mlp.{{n:fc1|fc2}}", f"{path}/mlp/{{n}}"),
    ]
