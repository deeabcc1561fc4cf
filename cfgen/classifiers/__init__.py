"""f: classifiers of any kind, brought to one convention."""

from cfgen.classifiers.adapter import Classifier
from cfgen.classifiers.check import check_classifier
from cfgen.classifiers.committee import Committee, decision
from cfgen.classifiers.evidence import EvidenceNet
from cfgen.classifiers.files import load_classifier, save_classifier

__all__ = [
    "Classifier",
    "Committee",
    "EvidenceNet",
    "check_classifier",
    "decision",
    "load_classifier",
    "save_classifier",
]
