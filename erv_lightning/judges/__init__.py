"""Judges name the emotion an explanation conveys, for EEA, EPC and FCR."""

from erv_lightning.judges.grammar import GrammarJudge
from erv_lightning.judges.protocol import Judge, Verdicts, judge_each
from erv_lightning.judges.verifier import VerifierJudge

__all__ = ["GrammarJudge", "Judge", "Verdicts", "VerifierJudge", "judge_each"]
