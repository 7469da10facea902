"""MultiBoxLoss: the training loss of single-shot detectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from caffe_bridge.errors import DataError
from caffe_bridge.graph import Shape
from caffe_bridge.layers.base import exactly
from caffe_bridge.layers.box import decode, encode
from caffe_bridge.layers.box_match import NOTHING, Mining, Truth, match, mine, read_truth
from caffe_bridge.layers.loss import Loss, floor
from caffe_bridge.layers.registry import register

_LEAST = math.log(float(np.finfo(np.float32).tiny))

#: Of each matched box: image, default box, location class, true corners and class.
Row = tuple[int, int, int, np.ndarray, int]


@register("MultiBoxLoss")
class MultiBoxLoss(Loss):
    """``(loc_weight sum f(loc - target) + sum g(conf, label)) / normalizer``.

    Each true box is matched with the default box that overlaps it most, and (PER_PREDICTION) each
    other default box with the true box that it overlaps most, if by overlap_threshold. f (smooth
    L1 or half the square) is summed over matched boxes, g (softmax or sigmoid cross entropy) over
    matched ones and negatives: of the boxes without a match whose overlap is below neg_overlap
    those of largest loss, neg_pos_ratio for each match of their image.

    Bottoms:
        loc: (N, P * L * 4) locations; L = 1, or num_classes without share_location.
        conf: (N, P * num_classes) scores.
        prior: (1, 2, P * 4) default boxes and their variances.
        truth: (1, 1, G, 8) image, class, instance, xmin, ymin, xmax, ymax, difficult; image -1
        means none.
    Tops:
        loss: ().
    Parameters:
        num_classes, share_location (true), background_label_id (0), code_type (CORNER),
        encode_variance_in_target (false); loc_loss_type (SMOOTH_L1), conf_loss_type (SOFTMAX),
        loc_weight (1); match_type (PER_PREDICTION), overlap_threshold (0.5),
        use_prior_for_matching (true), use_difficult_gt (true), ignore_cross_boundary_bbox (false),
        map_object_to_agnostic (false), bp_inside (false); mining_type (MAX_NEGATIVE; HARD_EXAMPLE:
        the sample_size (64) boxes of largest loss; NONE: all boxes), neg_pos_ratio (3),
        neg_overlap (0.5), nms_param with use_prior_for_nms (false). loss_param.normalization:
        VALID (matches), FULL (N P), BATCH_SIZE (N), NONE. propagate_down leaves out a part.
    Gradient:
        for loc and conf; matching and mining count as constants.
    ONNX:
        refused: a loss of training.
    Caffe source:
        multibox_loss_layer.cpp, bbox_util.cpp of weiliu89/caffe, branch ssd
    Differences:
        boxes of equal loss are mined in their order; nms_param needs top_k, as without it SSD
        mines nothing; with LOGISTIC the targets of other classes are 0 whatever the background is.
    """

    param_field = "multibox_loss_param"
    bottoms = exactly(4)
    no_gradient_bottoms = (2, 3)

    def configure(self) -> None:
        """Check the parameters."""
        self.classes = int(self.p.num_classes)
        self.background = int(self.p.background_label_id)
        if self.classes < 1:
            self.fail("num_classes is missing or zero; give the classes, background included.")
        self.softmax = self.p.conf_loss_type == "SOFTMAX"
        if self.softmax and self.background >= self.classes:
            self.fail(f"background_label_id {self.background} is not below {self.classes} classes.")
        self.loc_classes = 1 if self.p.share_location else self.classes
        if self.p.has("ignore_difficult_gt") and self.p.ignore_difficult_gt:
            self.fail("ignore_difficult_gt is a fork's and is not supported; use use_difficult_gt.")
        objects = self.classes - (self.background >= 0)
        if self.p.map_object_to_agnostic and objects != 1:
            self.fail(
                f"map_object_to_agnostic leaves one class beside the background, not {objects}; "
                "change num_classes."
            )
        self.mining = self.read_mining()
        wanted = self.spec.propagate_down
        self.parts = (wanted[0], wanted[1]) if len(wanted) > 1 else (True, True)

    def read_mining(self) -> Mining | None:
        """What to mine; None when all boxes count."""
        kind, nms = str(self.p.mining_type), self.p.nms_param
        if self.p.has("do_neg_mining"):
            if not self.p.has("mining_type"):
                kind = "MAX_NEGATIVE" if self.p.do_neg_mining else "NONE"
            if self.p.do_neg_mining != (kind != "NONE"):
                self.fail(f"do_neg_mining contradicts mining_type {kind}; take do_neg_mining out.")
        if kind == "NONE":
            return None
        if not self.p.share_location:
            self.fail("mines only with share_location; set it, or mining_type: NONE.")
        if not self.p.neg_pos_ratio > 0 or self.p.sample_size < 1:
            self.fail(
                f"neg_pos_ratio {self.p.neg_pos_ratio:g} and sample_size {self.p.sample_size} must "
                "be positive."
            )
        used = self.p.has("nms_param")
        if used and not nms.has("top_k"):
            self.fail("nms_param has no top_k, so nothing would be mined; give one (-1: all).")
        return Mining(
            kind == "HARD_EXAMPLE", float(self.p.neg_pos_ratio), float(self.p.neg_overlap),
            int(self.p.sample_size), float(nms.nms_threshold) if used else 0.0,
            int(nms.top_k) if used else -1,
        )  # fmt: skip

    def check_bottoms(self, shapes: Sequence[Shape]) -> None:
        """Locations and scores for each default box, rows of eight for the truth."""
        loc, conf, prior, truth = (tuple(shape) for shape in shapes)
        boxes = prior[2] // 4 if len(prior) > 2 else 0
        rows = [int(np.prod(shape[1:])) for shape in (loc, conf)]
        if loc[0] != conf[0] or rows != [boxes * self.loc_classes * 4, boxes * self.classes]:
            self.fail(
                f"bottoms of shapes {loc}, {conf} and {prior} do not fit: for the {boxes} boxes of "
                f"bottom 2 give locations (N, {boxes * self.loc_classes * 4}) and scores "
                f"(N, {boxes * self.classes})."
            )
        if truth[-1] != 8:
            self.fail(f"truth of shape {truth} must be (1, 1, G, 8).")

    def forward(self, loc: Tensor, conf: Tensor, prior: Tensor, truth: Tensor) -> Tensor:
        """Match, mine and sum."""
        number = loc.shape[0]
        loc = loc.reshape(number, -1, self.loc_classes, 4)
        conf = conf.reshape(number, -1, self.classes)
        boxes, variances = prior.detach().to(loc).reshape(2, -1, 4)
        rows = truth.detach().reshape(-1, 8).cpu().numpy()
        known = read_truth(rows, bool(self.p.use_difficult_gt))
        for true in known.values():
            self.check_labels(true.labels)
        matched: list[Row] = []
        negatives: list[tuple[int, int]] = []
        for image in range(number):
            if image in known:
                own = (loc[image].detach(), conf[image].detach(), boxes, variances)
                found, chosen = self.choose(known[image], *own)
                negatives += [(image, int(box)) for box in chosen]
                for label, matches in found.items():
                    place = 0 if self.p.share_location else label
                    matched += [
                        (image, int(box), place, known[image].boxes[m], self.label(known[image], m))
                        for box, m in enumerate(matches.tolist()) if m > NOTHING
                    ]  # fmt: skip
        # Without a match there is still a gradient, of zeros.
        total = loc.sum() * 0 + conf.sum() * 0
        if self.parts[0] and matched:
            pred, target = self.locations(loc, boxes, variances, matched)
            total = total + self.p.loc_weight * self.loc_losses(pred - target).sum()
        if self.parts[1]:
            total = total + self.class_loss(conf, matched, negatives)
        return total / self.normalizer(number, len(boxes), len(matched))

    def check_labels(self, labels: np.ndarray) -> None:
        """Refuse labels that are no class or the background."""
        wrong = labels[(labels < 0) | (labels >= self.classes) | (labels == self.background)]
        if len(wrong) and not self.p.map_object_to_agnostic:
            raise DataError(
                f"{self.spec.label()}: a true box has class {int(wrong[0])}; classes are 0 to "
                f"{self.classes - 1} without the background {self.background}."
            )

    def label(self, truth: Truth, index: int) -> int:
        """Class of a true box, or that of all objects."""
        return self.background + 1 if self.p.map_object_to_agnostic else int(truth.labels[index])

    def choose(
        self, truth: Truth, loc: Tensor, conf: Tensor, priors: Tensor, variances: Tensor
    ) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Matches of one image by location class, and the boxes mined as negatives."""
        factors = None if self.p.encode_variance_in_target else variances
        own = decode(loc.transpose(0, 1), priors, factors, self.p.code_type).cpu().numpy()
        boxes = priors.cpu().numpy()
        threshold = None if self.p.match_type == "BIPARTITE" else float(self.p.overlap_threshold)
        inside = bool(self.p.ignore_cross_boundary_bbox)
        if self.p.share_location:
            used = boxes if self.p.use_prior_for_matching else own[0]
            found, overlaps = match(used, truth.boxes, threshold, inside)
            if self.mining is None:
                return {0: found}, np.zeros(0, int)
            losses = self.losses(truth, found, loc, conf, (priors, variances))
            places = boxes if self.p.use_prior_for_nms else own[0]
            found, negatives = mine(found, overlaps, losses, places, self.mining)
            return {0: found}, negatives
        result = {}
        for label in range(self.classes):
            if label == self.background:
                continue
            mine_too = np.flatnonzero(truth.labels == label)
            if self.p.use_prior_for_matching:
                found, _ = match(boxes, truth.boxes, threshold, inside)
                result[label] = np.where(np.isin(found, mine_too), found, NOTHING)
            else:
                found, _ = match(own[label], truth.boxes[mine_too], threshold, inside)
                result[label] = np.where(found > NOTHING, np.append(mine_too, 0)[found], found)
        return result, np.zeros(0, int)

    def losses(
        self,
        truth: Truth,
        found: np.ndarray,
        loc: Tensor,
        conf: Tensor,
        prior: tuple[Tensor, Tensor],
    ) -> np.ndarray:
        """The loss of each box of one image, by which it is mined."""
        labels = np.full(len(found), self.background)
        boxes = np.flatnonzero(found > NOTHING)
        labels[boxes] = [self.label(truth, index) for index in found[boxes]]
        total = self.class_losses(conf, torch.from_numpy(labels).to(conf.device))
        if self.mining is not None and self.mining.hard_examples and len(boxes):
            rows: list[Row] = [(0, int(box), 0, truth.boxes[found[box]], 0) for box in boxes]
            pred, target = self.locations(loc[None], *prior, rows)
            total[boxes] += self.loc_losses(pred - target).sum(1)
        values: np.ndarray = total.cpu().numpy()
        return values

    def locations(
        self, loc: Tensor, priors: Tensor, variances: Tensor, rows: Sequence[Row]
    ) -> tuple[Tensor, Tensor]:
        """Locations of the matched boxes and what they should be, (M, 4) each."""
        image, box, place = (torch.tensor([row[i] for row in rows]) for i in range(3))
        pred, prior, factors = loc[image, box, place], priors[box], variances[box]
        true = torch.from_numpy(np.stack([row[3] for row in rows])).to(loc)
        target = encode(true, prior, factors, self.p.code_type)
        if not bool(torch.isfinite(target).all()):
            raise DataError(f"{self.spec.label()}: a true box or default box has no area.")
        divisor = factors if self.p.encode_variance_in_target else torch.ones_like(factors)
        pred = pred / divisor
        if self.p.bp_inside:
            where = prior
            if not self.p.use_prior_for_matching:
                scale = None if self.p.encode_variance_in_target else factors
                where = decode(pred.detach() * divisor, prior, scale, self.p.code_type)
            pred = torch.where((where < 0) | (where > 1), target, pred)
        return pred, target

    def loc_losses(self, gap: Tensor) -> Tensor:
        """Smooth L1 or half the square of each difference."""
        if self.p.loc_loss_type == "L2":
            return gap.square() / 2
        return F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none")

    def class_losses(self, conf: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of each row (M, classes) with its label; one below zero is no class."""
        if self.softmax:
            logs = conf.log_softmax(1).gather(1, labels[:, None])[:, 0]
            return -floor(logs, _LEAST)
        target = (labels[:, None] == torch.arange(self.classes, device=conf.device)).to(conf)
        return F.binary_cross_entropy_with_logits(conf, target, reduction="none").sum(1)

    def class_loss(
        self, conf: Tensor, matched: Sequence[Row], negatives: Sequence[tuple[int, int]]
    ) -> Tensor:
        """The sum of the cross entropies."""
        places = [row[:2] for row in matched]
        labels = torch.tensor([row[4] for row in matched], dtype=torch.long, device=conf.device)
        if self.mining is not None:
            chosen = torch.tensor([*places, *negatives], dtype=torch.long).reshape(-1, 2)
            rest = labels.new_full((len(negatives),), self.background)
            return self.class_losses(
                conf[chosen[:, 0], chosen[:, 1]], torch.cat([labels, rest])
            ).sum()
        if self.softmax:
            table = labels.new_full(conf.shape[:2], self.background)
            for place, row in zip(places, matched, strict=True):
                table[place] = row[4]
            return self.class_losses(conf.flatten(0, 1), table.flatten()).sum()
        target = torch.zeros_like(conf)
        for row in matched:
            target[row[0], row[1], row[4]] = 1
        return F.binary_cross_entropy_with_logits(conf, target, reduction="sum")

    def normalizer(self, number: int, boxes: int, matches: int) -> int:
        """What the sum is divided by, at least 1."""
        given = self.spec.record.loss_param
        mode = str(given.normalization)
        if given.has("normalize") and not given.has("normalization"):
            mode = "VALID" if given.normalize else "BATCH_SIZE"
        sizes = {"VALID": matches, "FULL": number * boxes, "BATCH_SIZE": number}
        return max(1, sizes.get(mode, 1))
