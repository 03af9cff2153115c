"""Judges name the emotion an explanation conveys, for EEA, EPC and FCR."""

from erv_lightning.judges.chat import ChatJudge
from erv_lightning.judges.classifier import ClassifierJudge
from erv_lightning.judges.grammar import GrammarJudge
from erv_lightning.judges.nli import NliJudge
from erv_lightning.judges.protocol import Judge, Verdicts, judge_each
from erv_lightning.judges.verifier import VerifierJudge

__all__ = [
    "ChatJudge",
    "ClassifierJudge",
    "GrammarJudge",
    "Judge",
    "NliJudge",
    "Verdicts",
    "VerifierJudge",
    "judge_each",
]
