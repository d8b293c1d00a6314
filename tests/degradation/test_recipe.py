import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace

import pytest
import torch

from deedsr.degradation import KINDS, LEVELS, Degradation, Mixture, Order, Recipe
from deedsr.degradation.recipe import SHARPEN_SIZE

Seeded = Callable[[int], torch.Generator]
SHARPEN, SINC = KINDS.index("sharpen"), KINDS.index("sinc")


def many(name: str, count: int = 20000) -> Degradation:
    drawn = Recipe.named(name).sample(torch.Generator().manual_seed(7), count)
    return drawn[~drawn.clean]


@pytest.fixture(scope="module", params=LEVELS)
def drawn(request: pytest.FixtureRequest) -> tuple[Recipe, Degradation]:
    return Recipe.named(request.param), many(request.param)


def shares(index: torch.Tensor, expected: list[float]) -> None:
    """Frequencies of 0, 1, … are as expected, to 4.5 standard deviations."""
    found = torch.bincount(index, minlength=len(expected)).double() / len(index)
    for have, want in zip(found.tolist(), expected, strict=True):
        assert abs(have - want) <= 4.5 * math.sqrt(want * (1 - want) / len(index)), (found.tolist(), expected)


def spans(values: torch.Tensor, low: float, high: float) -> None:
    """Uniform in [low,high]: within it, near its ends, its mean in the middle."""
    values = values.double()
    width, tolerance = high - low, 1e-6 * max(1.0, high)
    assert values.min() >= low - tolerance and values.max() <= high + tolerance
    assert values.min() < low + 0.02 * width and values.max() > high - 0.02 * width
    assert abs(values.mean().item() - (low + high) / 2) < 4.5 * width / math.sqrt(12 * len(values))


def test_probabilities(drawn: tuple[Recipe, Degradation]) -> None:
    recipe, rows = drawn
    for step, order in enumerate((recipe.first, recipe.second)):
        used = rows.kernel_size[:, step] > 0
        shares(used.long(), [1 - order.blur, order.blur])
        blurs = [probability * 0.9 for probability in (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)]
        shares(rows.kernel_kind[used, step], [*blurs, 0.1])
        shares((rows.kernel_size[used, step] - 7) // 2, [1 / 8] * 8)
        scale = rows.resize_scale[:, step]
        direction = torch.where(scale > 1, 0, torch.where(scale < 1, 1, 2))
        shares(direction, list((0.2, 0.7, 0.1) if step == 0 else (0.3, 0.4, 0.3)))
        shares((rows.noise_sigma[:, step] > 0).long(), [0.5, 0.5])
        assert torch.equal(rows.noise_sigma[:, step] > 0, rows.poisson_scale[:, step] == 0)
        shares(rows.grey[:, step].long(), [0.6, 0.4])
    for step in range(3):
        shares(rows.resize_mode[:, step], [1 / 3] * 3)
    shares((rows.kernel_size[:, 2] > 0).long(), [0.2, 0.8])
    shares(rows.jpeg_last.long(), [0.5, 0.5])


def test_ranges(drawn: tuple[Recipe, Degradation]) -> None:
    recipe, rows = drawn
    for step, order in enumerate((recipe.first, recipe.second)):
        blurred = (rows.kernel_size[:, step] > 0) & (rows.kernel_kind[:, step] != SINC)
        turned = blurred & (rows.kernel_kind[:, step] % 2 == 1)
        spans(rows.sigma_x[blurred, step], *order.sigma)
        spans(rows.sigma_y[turned, step], *order.sigma)
        spans(rows.rotation[turned, step], -math.pi, math.pi)
        assert torch.equal(rows.sigma_x[blurred & ~turned, step], rows.sigma_y[blurred & ~turned, step])
        scale = rows.resize_scale[:, step]
        spans(scale[scale > 1], 1, order.scale[1])
        spans(scale[scale < 1], order.scale[0], 1)
        spans(rows.noise_sigma[rows.noise_sigma[:, step] > 0, step], *order.gaussian)
        spans(rows.poisson_scale[rows.poisson_scale[:, step] > 0, step], *order.poisson)
        spans(rows.quality[:, step], *order.jpeg)


def test_shapes_of_kernels(drawn: tuple[Recipe, Degradation]) -> None:
    recipe, rows = drawn
    for step in (0, 1):
        kind, size, beta, omega = (
            getattr(rows, name)[:, step] for name in ("kernel_kind", "kernel_size", "beta", "omega")
        )
        for kinds, (low, high) in (((2, 3), recipe.beta_generalized), ((4, 5), recipe.beta_plateau)):
            found = beta[(size > 0) & ((kind == kinds[0]) | (kind == kinds[1]))]
            spans(found[found > 1], 1, high)
            if low < 1:
                spans(found[found < 1], low, 1)
            shares((found > 1).long(), [0.5, 0.5])
        small = (kind == SINC) & (size > 0) & (size < 13)
        spans(omega[small], math.pi / 3, math.pi)
        spans(omega[(kind == SINC) & (size >= 13)], math.pi / 5, math.pi)
    final = rows.kernel_size[:, 2] > 0
    assert (rows.kernel_kind[final, 2] == SINC).all()
    for large in (False, True):
        spans(rows.omega[final & ((rows.kernel_size[:, 2] >= 13) == large), 2], math.pi / 3, math.pi)


def test_one_percent_is_clean_and_holds_nothing_else() -> None:
    rows = Recipe.named("light").sample(torch.Generator().manual_seed(3), 20000)
    shares(rows.clean.long(), [0.99, 0.01])
    for name, values in rows[rows.clean].state().items():
        if name not in ("seed", "level", "clean"):
            assert not values.any(), name


def test_medium_is_the_midpoint_of_light_and_heavy() -> None:
    light, medium, heavy = (Recipe.named(name) for name in LEVELS)
    for order in ("first", "second"):
        for field in fields(Order):
            low, middle, high = (
                torch.tensor(getattr(getattr(recipe, order), field.name)) for recipe in (light, medium, heavy)
            )
            torch.testing.assert_close(middle.double(), (low.double() + high.double()) / 2, msg=field.name)
    for name in ("beta_generalized", "beta_plateau"):
        middle = [(a + b) / 2 for a, b in zip(getattr(light, name), getattr(heavy, name), strict=True)]
        assert list(getattr(medium, name)) == middle
    plain = ("kernels", "sinc", "kernel_size", "final_sinc", "jpeg_last", "clean")
    assert all(getattr(light, name) == getattr(medium, name) == getattr(heavy, name) for name in plain)


@pytest.mark.parametrize("name", [*LEVELS, "mixed"])
def test_a_batch_is_its_rows_one_after_another(name: str, seeded: Seeded) -> None:
    recipe = Recipe.named(name)
    together = recipe.sample(seeded(5), 16).state()
    generator = seeded(5)
    alone = [recipe.sample(generator, 1).state() for _ in range(16)]
    again = recipe.sample(seeded(5), 16).state()
    for key, values in together.items():
        assert torch.equal(values, torch.cat([row[key] for row in alone])), key
        assert torch.equal(values, again[key]), key


def test_samples_of_a_batch_differ_in_everything(seeded: Seeded) -> None:
    rows = Recipe.named("light").sample(seeded(0), 64)
    for name in ("kernel_kind", "kernel_size", "resize_mode", "resize_scale", "grey", "jpeg_last"):
        assert len(getattr(rows, name).unique()) > 1, name
    assert 0 < (rows.kernel_size[:, 1] > 0).sum() < 64
    assert 0 < (rows.noise_sigma[:, 0] > 0).sum() < 64
    assert len(rows.seed.unique()) == 64


def test_levels_draw_the_same_operations_at_other_strengths(seeded: Seeded) -> None:
    light, heavy = (Recipe.named(name).sample(seeded(9), 200) for name in ("light", "heavy"))
    for name in ("kernel_kind", "resize_mode", "jpeg_last", "grey"):
        first = getattr(light, name), getattr(heavy, name)
        column = (slice(None), 0) if first[0].ndim == 2 else slice(None)
        assert torch.equal(first[0][column], first[1][column]), name
    assert (heavy.sigma_x[:, 0] >= light.sigma_x[:, 0]).all()


def test_a_mixture_draws_its_level_per_sample() -> None:
    rows = many("mixed")
    shares(rows.level, [1 / 3] * 3)
    for index, name in enumerate(LEVELS):
        recipe, own = Recipe.named(name), rows[rows.level == index]
        spans(own.quality[:, 0], *recipe.first.jpeg)
        spans(own.noise_sigma[own.noise_sigma[:, 1] > 0, 1], *recipe.second.gaussian)


def test_a_recipe_of_ones_own_has_no_level(seeded: Seeded) -> None:
    recipe = replace(Recipe.named("light"), name="mine", clean=0)
    assert (recipe.sample(seeded(0), 4).level == -1).all()


def test_an_empty_batch_is_possible(seeded: Seeded) -> None:
    assert len(Recipe.named("mixed").sample(seeded(0), 0)) == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sinc": 1.5}, "sinc=1.5"),
        ({"kernels": (1, 0)}, "kernels="),
        ({"kernel_size": (6, 20)}, "kernel_size="),
        ({"beta_plateau": (2, 1)}, "beta_plateau="),
        ({"chroma": "linear"}, "unknown chroma 'linear'; choose one of smooth, nearest"),
    ],
)
def test_impossible_recipes_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Recipe.named("light"), **change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"resize": (0.5, 0.2, 0.2)}, "resize="),
        ({"scale": (1.1, 1.5)}, "scale="),
        ({"sigma": (0, 1)}, "sigma="),
        ({"jpeg": (0, 90)}, "jpeg="),
        ({"grey": -1}, "grey="),
    ],
)
def test_impossible_orders_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Recipe.named("light").first, **change)


def test_unknown_level() -> None:
    with pytest.raises(ValueError, match=r"'strong'.*light, medium, heavy, camera, mixed, varied, broad, real"):
        Recipe.named("strong")
    with pytest.raises(ValueError, match="at least one"):
        Mixture(())
    light = Recipe.named("light")
    for weights in ((1,), (1, -1), (0, 0), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"weights=\(.*must be 2 numbers from 0 on"):
            Mixture((light, light), weights)


def test_each_operation_is_left_out_by_itself() -> None:
    light = Recipe.named("light")
    whole, thinned = (
        recipe.sample(torch.Generator().manual_seed(1), 4000) for recipe in (light, replace(light, skip=1))
    )
    for name, left_out in (("quality", 0), ("noise_sigma", 0), ("kernel_size", 0), ("resize_scale", 1)):
        before, after = getattr(whole, name), getattr(thinned, name)
        used = before != left_out
        kept = after == before
        assert (after[~kept] == left_out).all()
        share = kept[used].double().mean()
        assert abs(share - 0.5) < 0.03, name
    both = (thinned.quality != 0)[~thinned.clean].all(1)
    assert abs(both.double().mean() - 1 / 3) < 0.03, "each sample has its own probability: E[(1 - u)²]"


def test_what_a_camera_stores_is_milder_than_the_light_level() -> None:
    camera, light = (many(name) for name in ("camera", "light"))
    assert camera.noise_sigma.max() <= 4 < light.noise_sigma.max()
    assert camera.quality[camera.quality > 0].min() >= 80 > light.quality.min()
    assert (camera.resize_scale == 1).all()
    assert camera.sigma_x[:, 0].max() > light.sigma_x[:, 0].max()
    real = Recipe.named("real").sample(torch.Generator().manual_seed(7), 6000)
    shares(real.level + 1, [2 / 3, 1 / 6, 0, 1 / 6])  # camera, which is no level, light, medium, heavy


def test_a_camera_sharpens_half_of_its_pictures() -> None:
    recipe, rows = Recipe.named("camera"), many("camera")
    used = rows.kernel_kind[:, 2] == SHARPEN
    shares(used.long(), [0.5, 0.5])
    spans(rows.beta[used, 2], *recipe.sharpness)
    spans(rows.sigma_x[used, 2], *recipe.radius)
    assert torch.equal(rows.sigma_x[used, 2], rows.sigma_y[used, 2]) and not rows.omega[used, 2].any()
    assert not rows.beta[~used, 2].any() and (rows.kernel_size[used, 2] == SHARPEN_SIZE).all()
    assert (many("light").kernel_kind != SHARPEN).all()


def test_sharpening_changes_no_other_draw(seeded: Seeded) -> None:
    medium = Recipe.named("medium")
    plain, sharp = (recipe.sample(seeded(4), 200).state() for recipe in (medium, replace(medium, sharpen=1)))
    of_the_last_filter = ("kernel_kind", "kernel_size", "sigma_x", "sigma_y", "beta", "omega")
    for name, values in plain.items():
        columns = (slice(None), slice(2)) if name in of_the_last_filter else slice(None)
        assert torch.equal(values[columns], sharp[name][columns]), name
    assert (sharp["kernel_size"][~sharp["clean"], 2] > 0).all()


ALWAYS = {"gaussian_share": 0.5, "grey": 0.4}
FIRST, SECOND = {**ALWAYS, "blur": 1, "resize": (0.2, 0.7, 0.1)}, {**ALWAYS, "resize": (0.3, 0.4, 0.3)}
KEPT = {**ALWAYS, "resize": (0, 0, 1), "scale": (1, 1)}
WHOLE = {"kernels": (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), "sinc": 0.1, "kernel_size": (7, 21), "final_sinc": 0.8}
WHOLE |= {"jpeg_last": 0.5, "clean": 0.01, "sharpen": 0, "sharpness": (0, 0), "radius": (1, 1), "skip": 0}
WHOLE |= {"chroma": "smooth"}
RANGES = {  # of StableSR, Real-ESRGAN, the middle between them, and of what cameras store
    "light": {
        **WHOLE,
        "beta_generalized": (0.5, 2),
        "beta_plateau": (1, 1.5),
        "first": {**FIRST, "sigma": (0.2, 1.5), "scale": (0.3, 1.5)}
        | {"gaussian": (1, 15), "poisson": (0.05, 2), "jpeg": (60, 95)},
        "second": {**SECOND, "blur": 0.5, "sigma": (0.2, 1), "scale": (0.6, 1.2)}
        | {"gaussian": (1, 12), "poisson": (0.05, 1), "jpeg": (60, 100)},
    },
    "medium": {
        **WHOLE,
        "beta_generalized": (0.5, 3),
        "beta_plateau": (1, 1.75),
        "first": {**FIRST, "sigma": (0.2, 2.25), "scale": (0.225, 1.5)}
        | {"gaussian": (1, 22.5), "poisson": (0.05, 2.5), "jpeg": (45, 95)},
        "second": {**SECOND, "blur": 0.65, "sigma": (0.2, 1.25), "scale": (0.45, 1.2)}
        | {"gaussian": (1, 18.5), "poisson": (0.05, 1.75), "jpeg": (45, 97.5)},
    },
    "heavy": {
        **WHOLE,
        "beta_generalized": (0.5, 4),
        "beta_plateau": (1, 2),
        "first": {**FIRST, "sigma": (0.2, 3), "scale": (0.15, 1.5)}
        | {"gaussian": (1, 30), "poisson": (0.05, 3), "jpeg": (30, 95)},
        "second": {**SECOND, "blur": 0.8, "sigma": (0.2, 1.5), "scale": (0.3, 1.2)}
        | {"gaussian": (1, 25), "poisson": (0.05, 2.5), "jpeg": (30, 95)},
    },
    "camera": {
        **WHOLE,
        "beta_generalized": (0.5, 2),
        "beta_plateau": (1, 1.5),
        "first": {**KEPT, "blur": 1, "sigma": (1, 4), "gaussian": (0, 3), "poisson": (0, 0.1), "jpeg": (90, 100)},
        "second": {**KEPT, "blur": 0, "sigma": (0.2, 1), "gaussian": (0, 4), "poisson": (0, 0.2), "jpeg": (80, 100)},
        "final_sinc": 0.1,
        "sharpen": 0.5,
        "sharpness": (0, 1.5),
        "radius": (0.5, 1.5),
        "skip": 0.3,
    },
}


@pytest.mark.parametrize("name", RANGES)
def test_the_ranges_are_the_documented_ones(name: str) -> None:
    assert asdict(Recipe.named(name)) == {**RANGES[name], "name": name}


def test_the_mixtures_are_the_documented_ones() -> None:
    light, medium, heavy, camera = (Recipe.named(name) for name in RANGES)
    assert Recipe.named("mixed") == Mixture([light, medium, heavy], [1, 1, 1])
    light, medium, heavy = (replace(recipe, skip=0.9) for recipe in (light, medium, heavy))
    assert Recipe.named("varied") == Mixture([light, medium, heavy], [1, 1, 1])
    assert Recipe.named("real") == Mixture([light, camera, heavy], [1, 4, 1])
