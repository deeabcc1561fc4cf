"""Ask readers: a blinded study written from a run, and the report of its answers.

``parse.read_questions`` reads what is asked, ``write.write_study`` writes the study of a run, and
``report.write_report`` reads the answers back. They need the packages of ``cfgen[study]``.
"""
