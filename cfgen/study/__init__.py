"""Ask readers: a blinded study written from a run, and the report of its answers."""

from cfgen.study.parse import read_questions
from cfgen.study.questions import Question, Questionnaire
from cfgen.study.report import write_report
from cfgen.study.write import write_study

__all__ = ["Question", "Questionnaire", "read_questions", "write_report", "write_study"]
