"""The players of TF-GAN's training: one step of each, and all that a checkpoint must hold."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from tumorfab import refiner
from tumorfab.networks import settled

EMA = 0.99
BETAS = (0.5, 0.9)


@dataclass(frozen=True, eq=False)
class Players:
    """Networks and their optimisers. `average` follows the generator's weights; `best` keeps those
    of the average that did best, and is the identity until one does."""

    encoder: refiner.SegResNet
    generator: refiner.Generator
    average: refiner.Generator
    best: refiner.Generator
    discriminator: refiner.Discriminator
    statistics: refiner.ClassStatistics
    encoder_optimiser: torch.optim.Optimizer
    generator_optimiser: torch.optim.Optimizer
    discriminator_optimiser: torch.optim.Optimizer
    device: torch.device

    @staticmethod
    def new(
        modalities: int, params: dict[str, Any], reach: int, cases: int, device: torch.device
    ) -> "Players":
        """New ones; `params` is the config section `refiner`, `cases` how many real ones teach."""
        channels, rate = params["channels"], params["learning_rate"]
        encoder = settled(refiner.encoder(modalities, channels), device)
        generator, average, best = (
            settled(refiner.Generator(modalities, channels, reach), device) for _ in range(3)
        )
        for other in (average, best):
            other.load_state_dict(generator.state_dict())
        discriminator = refiner.Discriminator(modalities, channels).to(device)
        if params["compile"]:
            for part in (encoder, generator, discriminator):
                part.compile()  # in place: names of weights stay
        return Players(
            encoder,
            generator,
            average,
            best,
            discriminator,
            refiner.ClassStatistics(refiner.widths(modalities, channels), cases).to(device),
            torch.optim.AdamW(encoder.parameters(), 1e-3),
            torch.optim.Adam(generator.parameters(), rate, betas=BETAS),
            torch.optim.Adam(discriminator.parameters(), 2 * rate, betas=BETAS),
            device,
        )

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint must hold."""
        return {f.name: getattr(self, f.name).state_dict() for f in fields(self)[:-1]}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        for f in fields(self)[:-1]:
            getattr(self, f.name).load_state_dict(state[f.name])

    def learn_to_see(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """One step of the encoder: segment real patches (B, M, I, J, K) by labels (B, I, J, K)."""
        with refiner.fast(self.device):
            logits = self.encoder(x)
        loss = refiner.class_loss(logits.float(), labels)
        self.encoder_optimiser.zero_grad()
        loss.backward()
        self.encoder_optimiser.step()
        return {"encoder": loss.item()}

    def compete(
        self,
        x: torch.Tensor,
        labels: torch.Tensor,
        y: torch.Tensor,
        wanted: torch.Tensor,
        params: dict[str, Any],
        done: int,
    ) -> dict[str, float]:
        """One step of discriminator and generator, the `done`-th. `x`, `labels`: real patches; `y`,
        `wanted`: coarse patches; `params` holds the weights of the generator's terms."""
        self.encoder.requires_grad_(False)
        reach = self.generator.reach
        at_real, at_fake = refiner.support(x, labels, reach), refiner.support(y, wanted, reach)
        real_places, places = refiner.places(x, labels, reach), refiner.places(y, wanted, reach)
        refined = self.generator(y, wanted)
        verdict, classes = self.discriminator(x)
        against = refiner.hinge(verdict, None, at_real) + refiner.hinge(
            None, self.discriminator(refined.detach())[0], at_fake
        )
        # The class head learns from real voxels only: what it calls a class is what reality calls
        # it.
        judgement = against + refiner.class_loss(classes, labels)
        self.discriminator_optimiser.zero_grad()
        judgement.backward()
        self.discriminator_optimiser.step()

        with torch.no_grad():
            self.statistics.update(refiner.features(self.encoder, x), real_places)
            self.statistics.update(refiner.features(self.encoder, y), places, coarse=True)
        self.discriminator.requires_grad_(False)
        verdict, classes = self.discriminator(refined)
        terms = {
            "adversarial": -refiner.weighted_mean(verdict, at_fake),
            "classes": refiner.class_loss(classes, wanted),
            "perceptual": self.statistics.distance(refiner.features(self.encoder, refined), places),
            # Content: keep the coarse tumour's low frequencies, leave real tumours as they are.
            # Around the tumour tissue has to give way, so there nothing is to be kept.
            "content": refiner.content(refined, y, refiner.inside(wanted))
            + refiner.weighted_mean((self.generator(x, labels) - x) ** 2, at_real),
        }
        loss = torch.stack([params[name] * term for name, term in terms.items()]).sum()
        self.generator_optimiser.zero_grad()
        loss.backward()
        self.generator_optimiser.step()
        self.discriminator.requires_grad_(True)
        self._follow(done)
        return {
            "discriminator": against.item(),
            **{name: term.item() for name, term in terms.items()},
        }

    @torch.no_grad()
    def _follow(self, done: int) -> None:
        # The average starts short, so that the first, worst weights do not linger in it.
        decay = min(EMA, (1 + done) / (10 + done))
        pairs = zip(self.average.parameters(), self.generator.parameters(), strict=True)
        for kept, new in pairs:
            kept.lerp_(new, 1 - decay)
