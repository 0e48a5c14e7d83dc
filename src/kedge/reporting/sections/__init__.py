"""The parts of results, a module each: what it adds to the summary, the sentences, the claims, the CSV and the page.

Of these a module has what it has something for; `results` have every key (`kedge.reporting.formats.upgrade`):

    summary(lines)                      adds its rows to the summary, which terminal, page and model card show
    sentences(name, model, results)     about one model
    questions(results)                  what models are compared by
    numbers(model, results)             the lines of the CSV
    section(results, level)             what its template of the same name shows, None for nothing; `level` says how
                                        much is to be left out (`kedge.reporting.page.LADDER`)
"""
